//! The steps of which plans are made.

use std::fmt;

use protocol::host::{COMPOSER, COMPOSER_SETTINGS, HostPath, SPOOL_MODE, STATE, TRIAL};

use crate::host::HOST_DIR_MODE;
use crate::memory::Memory;
use crate::sysctl::Sysctl;

/// One change to the host, or the decision to leave something as it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Make a directory.
    MakeDir(HostPath),
    /// Remove a file: something temporary of an installer that was killed, the
    /// composer's settings, or what came of a trial.
    RemoveFile(HostPath),
    /// Write down what was there before.
    Remember(Memory),
    /// Give the host directory its mode.
    ProtectHostDir,
    /// Write the composer's settings.
    WriteSettings,
    /// Put the composer into place.
    CopyComposer,
    /// Give the spool its group and its mode.
    OpenSpool,
    /// Set a sysctl.
    Set {
        /// Which.
        sysctl: Sysctl,
        /// What it was.
        from: String,
        /// What it becomes.
        to: String,
    },
    /// Write down that it is not known whether the kernel runs the composer.
    Doubt,
    /// See whether the kernel runs the composer.
    Try,
    /// Leave alone what somebody else has set since.
    Leave {
        /// Which.
        sysctl: Sysctl,
        /// What it is.
        found: String,
    },
    /// Remove the composer, which no pattern may name by then.
    RemoveComposer(HostPath),
    /// Give a directory the mode it had before us.
    GiveBackMode(HostPath, u32),
    /// Give a directory to the group it belonged to before us.
    GiveBackGroup(HostPath, u32),
    /// Remove what was remembered, if all of it has been given back.
    Forget,
    /// Remove a directory if it is empty.
    RemoveDir(HostPath),
    /// Leave a directory that was there before us.
    LeaveDir(HostPath),
}

impl Step {
    /// Whether this must not be done if `failed` could not be.
    pub fn needs(&self, failed: &Step) -> bool {
        if *self == Step::Try {
            return true;
        }
        let sets = |one| matches!(self, Step::Set { sysctl, .. } if *sysctl == one);
        match failed {
            // No change without memory, nor one that could pass for proven,
            Step::Remember(_) | Step::Doubt => true,
            // no pattern without a whole composer,
            Step::CopyComposer => sets(Sysctl::CorePattern),
            // and no cores of privileged processes for whoever else's pattern it is.
            Step::Set { sysctl: Sysctl::CorePattern, .. } => sets(Sysctl::SuidDumpable),
            _ => false,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::MakeDir(dir) => write!(f, "make the directory {dir}"),
            Step::RemoveFile(file) => write!(f, "remove {file}"),
            Step::Remember(memory) => {
                write!(f, "remember in {STATE} what was there before:")?;
                for (sysctl, remembered) in &memory.sysctls {
                    write!(f, " {sysctl} {:?}", remembered.before)?;
                }
                Ok(())
            }
            Step::ProtectHostDir => write!(f, "give the host directory mode {HOST_DIR_MODE:o}"),
            Step::WriteSettings => write!(f, "write {COMPOSER_SETTINGS}"),
            Step::CopyComposer => write!(f, "put our {COMPOSER} into place"),
            Step::OpenSpool => write!(f, "give the spool its group and mode {SPOOL_MODE:o}"),
            Step::Set { sysctl, from, to } => write!(f, "set {sysctl} to {to:?} (was {from:?})"),
            Step::Doubt => {
                write!(f, "write down in {TRIAL} that the kernel was not yet seen to run the {COMPOSER}")
            }
            Step::Try => write!(f, "crash a child of our own, to see that the kernel runs the {COMPOSER}"),
            Step::Leave { sysctl, found } => {
                write!(f, "leave {sysctl} alone: somebody else has set it to {found:?}")
            }
            Step::RemoveComposer(composer) => write!(f, "remove {composer}"),
            Step::GiveBackMode(dir, mode) => write!(f, "give {dir} back its mode {mode:o}"),
            Step::GiveBackGroup(dir, gid) => write!(f, "give {dir} back to group {gid}"),
            Step::Forget => write!(f, "remove {STATE}"),
            Step::RemoveDir(dir) => write!(f, "remove the directory {dir} if it is empty"),
            Step::LeaveDir(dir) => write!(f, "leave the directory {dir}: it was there before us"),
        }
    }
}
