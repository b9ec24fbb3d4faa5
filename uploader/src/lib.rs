//! Ships finished dumps to a store.
