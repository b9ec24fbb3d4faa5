//! A store, a crasher and a kernel to try the three programs on; no part of a release.
