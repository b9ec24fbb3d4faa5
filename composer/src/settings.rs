//! `composer.yaml`, which lies beside the composer.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protocol::host::COMPOSER_SETTINGS;
use protocol::settings::ComposerSettings;

/// Where they are.
pub fn path() -> io::Result<PathBuf> {
    beside(env::current_exe())
}

/// The settings, and what is wrong with them.
pub fn read() -> (ComposerSettings, Vec<String>) {
    match path() {
        Ok(path) => read_from(&path),
        Err(err) => defaulted(format!("defaults are used: where the composer lies is not known: {err}")),
    }
}

fn beside(exe: io::Result<PathBuf>) -> io::Result<PathBuf> {
    // "… (deleted)" after an upgrade changes the name and not the directory.
    Ok(exe?.with_file_name(COMPOSER_SETTINGS))
}

fn read_from(path: &Path) -> (ComposerSettings, Vec<String>) {
    match fs::read_to_string(path) {
        Ok(yaml) => {
            let (settings, problems) = ComposerSettings::read(&yaml);
            let problems = problems.into_iter().map(|problem| format!("{}: {problem}", path.display()));
            (settings, problems.collect())
        }
        Err(err) => defaulted(format!("defaults are used: reading {}: {err}", path.display())),
    }
}

fn defaulted(problem: String) -> (ComposerSettings, Vec<String>) {
    (ComposerSettings::default(), vec![problem])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_read_are_defaults_and_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(COMPOSER_SETTINGS);
        let (settings, problems) = read_from(&path);
        assert_eq!(settings, ComposerSettings::default());
        assert!(problems[0].contains("composer.yaml: No such file"), "{problems:?}");
        fs::write(&path, b"spool_dir: /x\nredact_environ: \xff").unwrap();
        let (settings, problems) = read_from(&path);
        assert_eq!(settings, ComposerSettings::default());
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn a_replaced_composer_still_finds_its_settings() {
        let exe = Ok(PathBuf::from("/opt/x/composer (deleted)"));
        assert_eq!(beside(exe).unwrap(), Path::new("/opt/x/composer.yaml"));
    }
}
