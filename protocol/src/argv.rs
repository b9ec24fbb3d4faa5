//! The composer's arguments: written by the installer into
//! `kernel.core_pattern`, expanded by the kernel, read by the composer.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use crate::host::{COMPOSER, HostPath};
use crate::text::Text;

/// What we ask the kernel to tell us (core(5), "Naming of core dump files").
///
/// Every argument begins with the letter of its own specifier, so that it says
/// what it is: a kernel that does not know `%F` (before 6.16) leaves a bare
/// `F`, one before 5.3 splits a host name at its blanks, and during an upgrade
/// a composer may be called by the pattern of its predecessor. In none of these
/// does one number take the place of another.
///
/// Numbers first: the kernel wrote them. The host name and the command come
/// last because the crashed container chose those bytes.
pub const SPECIFIERS: [&str; 11] = [
    "P%P", // pid in the initial pid namespace
    "I%I", // tid of the thread that crashed, in the initial pid namespace
    "u%u", // real uid
    "g%g", // real gid
    "s%s", // signal
    "t%t", // time, seconds since the epoch
    "c%c", // soft RLIMIT_CORE
    "d%d", // dumpable, as in PR_GET_DUMPABLE
    "F%F", // file descriptor of a pidfd for the process
    "h%h", // host name of the crashed process's UTS namespace
    "e%e", // comm, at most 15 bytes
];

/// `kernel.core_pattern` is a 128-byte buffer, its terminator included
/// (`CORENAME_MAX_SIZE` in the kernel's `include/linux/binfmts.h`).
pub const MAX_PATTERN: usize = 127;

/// A value for `kernel.core_pattern` that makes the kernel run our composer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CorePattern(String);

/// Why no pattern can name this helper.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// The kernel would take a part of the path for something else.
    #[error("{0} has a blank, a % or a character beyond ASCII in it, which core_pattern cannot have")]
    Unspeakable(HostPath),
    /// The kernel would cut the pattern.
    #[error("core_pattern would be {0} bytes long; the kernel takes at most {MAX_PATTERN}")]
    TooLong(usize),
}

impl CorePattern {
    /// The pattern that pipes cores to `helper`.
    pub fn piping_to(helper: &HostPath) -> Result<CorePattern, PatternError> {
        // Printable ASCII: to the kernel a byte of 0xA0 is a blank, also in the
        // middle of a UTF-8 character (`isspace` and `_ctype` in lib/ctype.c).
        if helper.as_str().contains(|c: char| !c.is_ascii_graphic() || c == '%') {
            return Err(PatternError::Unspeakable(helper.clone()));
        }
        let pattern = format!("|{helper} {}", SPECIFIERS.join(" "));
        match pattern.len() {
            0..=MAX_PATTERN => Ok(CorePattern(pattern)),
            len => Err(PatternError::TooLong(len)),
        }
    }

    /// The text to write into the sysctl.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CorePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The program that a `kernel.core_pattern` has the kernel run, whoever wrote
/// the pattern and with whichever specifiers.
pub fn helper(pattern: &str) -> Option<&str> {
    pattern.strip_prefix('|')?.split(|c: char| c.is_ascii_whitespace()).next()
}

/// Whether an installer of ours wrote a `kernel.core_pattern`, wherever it has put
/// its composer.
pub fn is_of_an_installer(pattern: &str) -> bool {
    let named = helper(pattern).is_some_and(|helper| helper.ends_with(&format!("/{COMPOSER}")));
    named && pattern.split(' ').nth(1) == Some(SPECIFIERS[0])
}

/// What the kernel said about a crash. Each part is absent if the kernel did
/// not say it, or said it in a way we cannot read; `problems` has the reason.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Argv {
    /// The process, in the initial pid namespace.
    pub pid: Option<u32>,
    /// The thread that crashed, in the initial pid namespace.
    pub tid: Option<u32>,
    /// Its real user id, in the initial user namespace.
    pub uid: Option<u32>,
    /// Its real group id, in the initial user namespace.
    pub gid: Option<u32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// When, in seconds since the epoch.
    pub time: Option<i64>,
    /// Its soft limit on core files, in bytes.
    pub core_limit: Option<u64>,
    /// 1: dumped as itself; 2: dumped for root's eyes only (`suidsafe`).
    pub dumpable: Option<u32>,
    /// The descriptor at which the kernel left a pidfd; none before Linux 6.16.
    pub pidfd: Option<u32>,
    /// The host name the process saw; bytes of its own choosing, but that the
    /// kernel makes a `!` of each `/`, and of a name that is empty or begins
    /// like `.` and `..` (`cn_esc_printf` in `fs/coredump.c`).
    pub hostname: Option<Text>,
    /// The crashed thread's command name; the same goes for it.
    pub comm: Option<Text>,
    /// What could not be read.
    pub problems: Vec<String>,
}

impl Argv {
    /// Reads the arguments [`SPECIFIERS`] asked for. Total: whatever the
    /// arguments are, there is a core to be kept.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Argv {
        let args: Vec<OsString> = args.into_iter().collect();
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        // The labels of the two free texts are looked for where they belong, at
        // the end: a blank in a host name must not make a number of its tail
        // on kernels before 5.3.
        let texts = args.iter().position(|arg| arg.first() == Some(&b'h')).unwrap_or(args.len());
        let (numbers, texts) = args.split_at(texts);
        let (hostname, comm) = match texts.iter().position(|arg| arg.first() == Some(&b'e')) {
            Some(at) => (joined(&texts[..at]), joined(&texts[at..])),
            None => (joined(texts), None),
        };
        let mut problems = Vec::new();
        let read = &mut Numbers { args: numbers, problems: &mut problems };
        let mut argv = Argv {
            pid: read.number('P'),
            tid: read.number('I'),
            uid: read.number('u'),
            gid: read.number('g'),
            signal: read.number('s'),
            time: read.number('t'),
            core_limit: read.number('c'),
            dumpable: read.number('d'),
            pidfd: read.label('F').and_then(|fd| fd.parse().ok()),
            hostname,
            comm,
            problems: Vec::new(),
        };
        for (name, value) in [("h", &argv.hostname), ("e", &argv.comm)] {
            if value.is_none() {
                problems.push(format!("the kernel gave no %{name}"));
            }
        }
        argv.problems = problems;
        argv
    }
}

struct Numbers<'a> {
    args: &'a [&'a [u8]],
    problems: &'a mut Vec<String>,
}

impl Numbers<'_> {
    fn label(&self, label: char) -> Option<&str> {
        let mut found = self.args.iter().filter_map(|arg| str::from_utf8(arg).ok()?.strip_prefix(label));
        found.next()
    }

    fn number<T: std::str::FromStr>(&mut self, label: char) -> Option<T> {
        let problem = match self.label(label) {
            None => format!("the kernel gave no %{label}"),
            Some(text) => match text.parse() {
                Ok(number) => return Some(number),
                Err(_) => format!("the kernel's %{label} is no number: {}", Text::from(text)),
            },
        };
        self.problems.push(problem);
        None
    }
}

/// Puts together what a kernel before 5.3 split at blanks, without its label.
fn joined(args: &[&[u8]]) -> Option<Text> {
    if args.is_empty() {
        return None;
    }
    let whole = args.join(&b' ');
    Some(Text::from(OsStr::from_bytes(&whole[1..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_the_program_that_is_run() {
        let ours = CorePattern::piping_to(&HostPath::try_from("/opt/x/composer").unwrap()).unwrap();
        assert_eq!(helper(ours.as_str()), Some("/opt/x/composer"));
        assert_eq!(helper("|/opt/x/composer\n"), Some("/opt/x/composer"));
        assert_eq!(helper("| /opt/x/composer"), Some(""), "the kernel runs nothing then");
        assert_eq!(helper("/opt/x/composer"), None);
    }

    fn read(args: &[&[u8]]) -> Argv {
        Argv::read(args.iter().map(|arg| OsStr::from_bytes(arg).to_owned()))
    }

    /// Expands a pattern as the kernel does (`format_corename` in
    /// `fs/coredump.c`): split at blanks first, then expanded.
    fn expand(pattern: &CorePattern, value: impl Fn(char) -> String) -> Vec<OsString> {
        let arg = |word: &str| {
            let (label, specifier) = word.split_once('%').unwrap();
            OsString::from(format!("{label}{}", value(specifier.chars().next().unwrap())))
        };
        pattern.as_str().split(' ').skip(1).map(arg).collect()
    }

    fn linux_6_18(specifier: char) -> String {
        match specifier {
            'P' => "28763".into(),
            'I' => "28764".into(),
            'u' => "1000".into(),
            'g' => "1001".into(),
            's' => "11".into(),
            't' => "1795375862".into(),
            'c' => "18446744073709551615".into(),
            'd' => "1".into(),
            'F' => "3".into(),
            'h' => "web 0".into(),
            'e' => "my e app".into(),
            other => panic!("%{other}"),
        }
    }

    fn pattern() -> CorePattern {
        CorePattern::piping_to(&HostPath::try_from("/opt/coredump-handler/composer").unwrap()).unwrap()
    }

    #[test]
    fn what_the_pattern_asks_for_is_what_the_composer_reads() {
        let argv = Argv::read(expand(&pattern(), linux_6_18));
        assert_eq!(
            argv,
            Argv {
                pid: Some(28763),
                tid: Some(28764),
                uid: Some(1000),
                gid: Some(1001),
                signal: Some(11),
                time: Some(1_795_375_862),
                core_limit: Some(u64::MAX),
                dumpable: Some(1),
                pidfd: Some(3),
                hostname: Some("web 0".into()),
                comm: Some("my e app".into()),
                problems: vec![],
            }
        );
    }

    #[test]
    fn a_kernel_without_pidfd_costs_only_the_pidfd() {
        let old = |specifier| if specifier == 'F' { String::new() } else { linux_6_18(specifier) };
        let argv = Argv::read(expand(&pattern(), old));
        assert_eq!((argv.pid, argv.pidfd, argv.problems), (Some(28763), None, vec![]));
    }

    #[test]
    fn a_kernel_that_splits_after_expanding_moves_no_number() {
        let words = expand(&pattern(), linux_6_18);
        let split: Vec<OsString> =
            words.iter().flat_map(|word| word.to_str().unwrap().split(' ').map(OsString::from)).collect();
        let argv = Argv::read(split);
        assert_eq!((argv.pid, argv.signal), (Some(28763), Some(11)));
        // Which blanks were the host name's, and how many, cannot be known.
        assert_eq!(argv.hostname, Some("web 0".into()));
    }

    #[test]
    fn a_host_name_cannot_pose_as_a_number() {
        let argv = read(&[b"P1", b"s11", b"hx", b"P2", b"ecomm"]);
        assert_eq!(argv.pid, Some(1));
        let argv = read(&[b"s11", b"hx", b"P2", b"ecomm"]);
        assert_eq!(argv.pid, None);
    }

    #[test]
    fn arguments_that_make_no_sense_are_named_and_the_rest_is_read() {
        let argv = read(&[b"Pabc", b"s11", b"u", b"h../../etc", b"e\xff\n\"'"]);
        assert_eq!((argv.pid, argv.signal, argv.uid), (None, Some(11), None));
        assert_eq!(argv.comm.unwrap().as_bytes(), b"\xff\n\"'");
        assert!(argv.problems.contains(&"the kernel's %P is no number: abc".to_owned()));
        assert!(argv.problems.contains(&"the kernel gave no %t".to_owned()));
        assert_eq!(Argv::read([]).problems.len(), SPECIFIERS.len() - 1);
    }

    #[test]
    fn a_pattern_the_kernel_would_misread_is_refused() {
        let refused = |path: &str| CorePattern::piping_to(&HostPath::try_from(path).unwrap()).is_err();
        assert!(refused("/opt/my dir/composer"));
        assert!(refused("/opt/100%/composer"));
        assert!(refused("/opt/à/composer"), "its second byte is 0xA0");
        assert!(refused(&format!("/{}/composer", "x".repeat(100))));
        assert!(!refused("/opt/coredump-handler/composer"));
    }

    mod hostile {
        use std::os::unix::ffi::OsStringExt;

        use proptest::prelude::*;

        use super::*;
        use crate::strange;
        use crate::text::one_line;

        fn arguments() -> impl Strategy<Value = Vec<Vec<u8>>> {
            let expanded =
                expand(&pattern(), linux_6_18).into_iter().map(OsString::into_vec).collect::<Vec<_>>();
            let arguments: Vec<_> = expanded.iter().map(|arg| strange::changed(vec![arg.clone()])).collect();
            prop_oneof![4 => arguments, 1 => prop::collection::vec(strange::changed(expanded), 0..20)]
        }

        proptest! {
            #[test]
            fn whatever_the_arguments_are_there_is_a_crash_to_speak_of(args in arguments()) {
                let argv = Argv::read(args.iter().cloned().map(OsString::from_vec));
                for problem in &argv.problems {
                    prop_assert_eq!(&one_line(problem), problem);
                }
                let read = [&argv.hostname, &argv.comm].into_iter().flatten().map(|text| text.as_bytes().len());
                prop_assert!(read.sum::<usize>() <= args.concat().len() + args.len());
            }

            #[test]
            fn no_name_moves_a_number(hostname in strange::bytes(), comm in strange::bytes()) {
                let mut args = expand(&pattern(), linux_6_18);
                args.truncate(SPECIFIERS.len() - 2);
                // The kernel ends an argument at its first zero.
                let named = |label: u8, name: &[u8]| {
                    let name = name.iter().copied().take_while(|byte| *byte != 0);
                    OsString::from_vec([label].into_iter().chain(name).collect())
                };
                args.extend([named(b'h', &hostname), named(b'e', &comm)]);
                let argv = Argv::read(args);
                prop_assert_eq!((argv.pid, argv.signal, argv.pidfd), (Some(28763), Some(11), Some(3)));
                prop_assert_eq!(argv.problems, Vec::<String>::new());
            }
        }
    }
}
