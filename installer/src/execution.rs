//! Does what a plan says: one system operation, or one file, per step.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use protocol::host::{COMPOSER, COMPOSER_SETTINGS, HostPath, SPOOL_MODE, STATE, TRIAL, TRIAL_NAME};

use crate::host::{COMPOSER_MODE, HOST_DIR_MODE, Node, SETTINGS_MODE, is_absence, temporary};
use crate::step::Step;
use crate::sysctl::Sysctl;
use crate::trial::{self, NotRun, Outcome, Record, Trial};

/// What a host was before, and whether its kernel runs the composer, is no secret.
const STATE_MODE: u32 = 0o644;
/// The uploader has to get through to the spool.
const DIR_MODE: u32 = 0o755;

/// A trial costs the kernel's log two lines.
const TRY_EVERY: Duration = Duration::from_secs(60);

/// What became of a step that did not fail.
#[derive(Debug)]
pub enum Done {
    /// It is done.
    Done,
    /// It was not to be done, and why.
    Kept(String),
}

/// Executes one step.
///
/// # Errors
/// If the host does not let us.
pub fn execute(node: &Node, step: &Step) -> Result<Done> {
    let config = &node.config;
    match step {
        Step::MakeDir(dir) => {
            make_dir(&node.root.locate(dir), if *dir == config.host_dir { HOST_DIR_MODE } else { DIR_MODE })
        }
        Step::RemoveFile(file) => remove_file(&node.root.locate(file)),
        Step::Remember(memory) => put(&node.place(STATE), STATE_MODE, &mut memory.to_json()?.as_bytes()),
        Step::ProtectHostDir => set_mode(&node.root.locate(&config.host_dir), HOST_DIR_MODE),
        Step::WriteSettings => {
            put(&node.place(COMPOSER_SETTINGS), SETTINGS_MODE, &mut config.composer_yaml.as_bytes())
        }
        Step::CopyComposer => {
            let ours = &node.composer;
            let mut ours = File::open(ours).with_context(|| format!("opening {}", ours.display()))?;
            put(&node.place(COMPOSER), COMPOSER_MODE, &mut ours)
        }
        Step::OpenSpool => open_spool(&node.root.locate(&config.spool_dir), config.spool_gid),
        Step::Set { sysctl, from, to } => sysctl
            .write(&config.sysctl_dir, to)
            .with_context(|| format!("setting {sysctl}, which was {from:?}")),
        Step::Doubt => write_down(node, Outcome::Pending, false),
        Step::Try => attempt(node).map_err(|err| NotRun(format!("{err:#}")).into()),
        Step::RemoveComposer(composer) => {
            // The kernel would go on running it, and fail: every dump lost.
            let pattern = Sysctl::CorePattern.read(&config.sysctl_dir)?;
            ensure!(!config.names_composer(&pattern), "{composer} stays: core_pattern is still {pattern:?}");
            remove_file(&node.root.locate(composer))
        }
        Step::GiveBackMode(dir, mode) => set_mode(&node.root.locate(dir), *mode),
        Step::GiveBackGroup(dir, gid) => return give_back_group(&node.root.locate(dir), dir, *gid),
        Step::Forget => remove_file(&node.place(STATE)),
        Step::RemoveDir(dir) => return remove_dir(&node.root.locate(dir), dir),
        Step::Leave { .. } | Step::LeaveDir(_) => Ok(()),
    }?;
    Ok(Done::Done)
}

/// A trial, but for one that has just failed.
fn attempt(node: &Node) -> Result<()> {
    let known = trial::known(node);
    if let Trial::Failed { why, ago, .. } = &known
        && *ago < TRY_EVERY
    {
        bail!("{why}");
    }
    let name = trial::name();
    put(&node.place(TRIAL_NAME), SETTINGS_MODE, &mut name.as_bytes())?;
    let outcome = trial::make(node, &name);
    remove_file(&node.place(TRIAL_NAME))?;
    let outcome = outcome?;
    write_down(node, outcome.clone(), known.is_proven(true))?;
    if let Outcome::Failed(why) = outcome {
        bail!(why);
    }
    Ok(())
}

fn write_down(node: &Node, outcome: Outcome, proven: bool) -> Result<()> {
    let record = serde_json::to_vec(&Record::new(node, outcome, proven)?)?;
    put(&node.place(TRIAL), STATE_MODE, &mut record.as_slice())
}

/// With its mode from the start, or somebody may open it before it has it.
fn make_dir(dir: &Path, mode: u32) -> Result<()> {
    match DirBuilder::new().mode(mode).create(dir) {
        Err(err) if err.kind() == ErrorKind::AlreadyExists => Ok(()), // the other installer was faster
        made => made.with_context(|| format!("making the directory {}", dir.display())),
    }?;
    set_mode(dir, mode) // whatever the umask is
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("giving {} mode {mode:o}", path.display()))
}

/// The group before the mode: whoever is not in the group cannot give a
/// directory its setgid bit, and the kernel would drop it without a word.
fn open_spool(spool: &Path, gid: u32) -> Result<()> {
    let now = || fs::metadata(spool).with_context(|| format!("looking at {}", spool.display()));
    if now()?.gid() != gid {
        chown(spool, None, Some(gid)).with_context(|| {
            format!("giving {} to group {gid}, which takes root or its owner in that group", spool.display())
        })?;
    }
    set_mode(spool, SPOOL_MODE)?;
    let mode = now()?.mode() & 0o7777;
    ensure!(
        mode == SPOOL_MODE,
        "{} has mode {mode:o} in spite of being given {SPOOL_MODE:o}",
        spool.display()
    );
    Ok(())
}

/// Bytes, mode, then the name, then the directory that holds it: a kill or a
/// power cut leaves the old file or the new one. The name moves to a new file
/// because a running executable cannot be written to (ETXTBSY).
fn put(path: &Path, mode: u32, bytes: &mut dyn Read) -> Result<()> {
    let mut write = || -> io::Result<()> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(ErrorKind::InvalidInput)?;
        let new = path.with_file_name(temporary(name));
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        let named = fill(file, mode, bytes).and_then(|()| fs::rename(&new, path));
        if named.is_err() {
            // On a full disk it would take what others need.
            let _ = fs::remove_file(&new);
        }
        named?;
        sync_parent(path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

fn fill(mut file: File, mode: u32, bytes: &mut dyn Read) -> io::Result<()> {
    io::copy(bytes, &mut file)?;
    file.set_permissions(Permissions::from_mode(mode))?; // whatever the umask is
    file.sync_all()
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(err) if is_absence(&err) => Ok(()), // it could not be looked at before
        removed => removed.and_then(|()| sync_parent(path)),
    }
    .with_context(|| format!("removing {}", path.display()))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn give_back_group(path: &Path, dir: &HostPath, gid: u32) -> Result<Done> {
    match chown(path, None, Some(gid)) {
        Ok(()) => Ok(Done::Done),
        // A pod without capabilities can give to its own group, and to no other.
        Err(err) if err.kind() == ErrorKind::PermissionDenied => {
            Ok(Done::Kept(format!("leave {dir} to the spool's group: only root can give it back to {gid}")))
        }
        Err(err) => Err(err).with_context(|| format!("giving {} to group {gid}", path.display())),
    }
}

fn remove_dir(path: &Path, dir: &HostPath) -> Result<Done> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(Done::Done),
        Err(err) if is_absence(&err) => Ok(Done::Done),
        // Evidence, or a stranger's.
        Err(err) if err.kind() == ErrorKind::DirectoryNotEmpty => {
            Ok(Done::Kept(format!("leave the directory {dir}: there is something in it")))
        }
        // In a pod it is a mount, and can go only after the pod. The kernel asks
        // first whether what is around it may be written to.
        Err(err) if matches!(err.kind(), ErrorKind::ResourceBusy | ErrorKind::ReadOnlyFilesystem) => {
            Ok(Done::Kept(format!("leave the directory {dir}: it is mounted")))
        }
        Err(err) => Err(err).with_context(|| format!("removing {}", path.display())),
    }
}
