//! The command line: its quirks are those of getopt_long, as the reference uses it.

use std::ffi::OsString;

use criu_config::args::{Invocation, Request, docs, help, parse};
use criu_config::{Command, Raw, Sources, load};

fn words(line: &str) -> Vec<OsString> {
    std::iter::once("criu-rs").chain(line.split_whitespace()).map(OsString::from).collect()
}

fn run(line: &str) -> Invocation {
    match parse(words(line)) {
        Ok(Request::Run(invocation)) => invocation,
        other => panic!("{line}: {other:?}"),
    }
}

fn refused(line: &str) -> String {
    let error = parse(words(line)).expect_err(line).to_string();
    let (message, hint) = error.split_once('\n').unwrap();
    assert_eq!(hint, "Try `criu-rs --help`.", "{line}");
    message.to_owned()
}

/// The options as `name=value` words, in order.
fn options(line: &str) -> String {
    let show = |raw: &Raw| match raw {
        Raw::Bare => String::new(),
        Raw::Off => "=off".into(),
        Raw::Text(text) => format!("={text}"),
    };
    let all: Vec<_> = run(line)
        .settings
        .iter()
        .map(|setting| format!("{}{}", setting.option.name, show(&setting.raw)))
        .collect();
    all.join(" ")
}

#[test]
fn commands() {
    for command in Command::ALL {
        let line = match command {
            Command::Swrk => "swrk 5".into(),
            Command::ConfigCheck => "config check /a/file".into(),
            command => command.to_string(),
        };
        assert_eq!(run(&line).command, *command);
    }
    assert_eq!(run("swrk 5").operands, ["5"]);
    assert_eq!(run("config check /a/file").operands, ["/a/file"]);
    assert!(run("config show --format json -v").json);
    assert!(!run("config show -v").json);
}

#[test]
fn options_on_either_side_of_the_command() {
    assert_eq!(options("-v dump -t 5 -v"), "verbosity tree=5 verbosity");
    assert_eq!(options("-D /images -j restore"), "images-dir=/images shell-job");
    assert_eq!(options("dump --tcp-established --no-tcp-established"), "tcp-established tcp-established=off");
}

#[test]
fn verbosity_in_all_its_forms() {
    for (line, level) in [
        ("", 2),
        ("-v", 3),
        ("-vv", 4),
        ("-vvvv", 6),
        ("-v4", 4),
        ("-v0", 0),
        ("-v4 -v", 5),
        ("-v -v4", 4),
        ("--verbosity", 3),
        ("--verbosity=1", 1),
        ("-verbosity=0", 0),
        ("-sRv4", 4),
        ("-vj", 3),
    ] {
        let arguments = run(&format!("dump {line}")).settings;
        assert_eq!(
            load(&Sources { arguments, ..Sources::default() }).unwrap().options.verbosity,
            level,
            "{line}"
        );
    }
}

#[test]
fn arguments_that_may_be_left_out_need_an_equals_sign() {
    assert_eq!(options("dump --ext-unix-sk --cpu-cap=none -x"), "ext-unix-sk cpu-cap=none ext-unix-sk");
    assert_eq!(
        options("dump -x7,8 -sx9 --manage-cgroups=full"),
        "ext-unix-sk=7,8 leave-stopped ext-unix-sk=9 manage-cgroups=full"
    );
    assert_eq!(refused("dump --manage-cgroups full"), "dump takes no further word «full»");
}

#[test]
fn names_may_be_cut_short_where_that_is_unambiguous() {
    assert_eq!(
        options("dump --leave-run --tcp-e --no-tcp-e"),
        "leave-running tcp-established tcp-established=off"
    );
    assert_eq!(options("dump --tls --ext-u=4"), "tls ext-unix-sk=4");
    assert_eq!(
        refused("dump --leave"),
        "unknown option --leave: it may be --leave-running or --leave-stopped"
    );
}

#[test]
fn values_may_start_with_a_dash() {
    assert_eq!(options("dump -o -x -t5 --work-dir=-"), "log-file=-x tree=5 work-dir=-");
}

#[test]
fn the_command_behind_a_double_dash() {
    let invocation = run("restore --exec-cmd -D /images -- /bin/prog -v4 --flag");
    assert_eq!(invocation.operands, ["/bin/prog", "-v4", "--flag"]);
    assert_eq!(invocation.settings.len(), 2);
    assert_eq!(refused("restore --exec-cmd"), "--exec-cmd needs a command after «--»");
    assert_eq!(refused("dump --exec-cmd -- ls"), "--exec-cmd belongs to the restore command");
    assert_eq!(
        refused("restore -d --exec-cmd -- ls"),
        "--exec-cmd and --restore-detached exclude each other"
    );
}

#[test]
fn what_is_refused() {
    for (line, message) in [
        ("", "a command is required"),
        ("-v", "a command is required"),
        ("dmup", "unknown command «dmup», did you mean «dump»?"),
        ("cpuinfo", "cpuinfo needs an action: dump or check"),
        ("config list", "config needs an action: show or check"),
        ("dump foo", "dump takes no further word «foo»"),
        ("swrk", "usage: criu-rs swrk FD"),
        ("dump --tcp-establishd", "unknown option --tcp-establishd, did you mean --tcp-established?"),
        ("dump -q", "unknown option -q"),
        ("dump --format json", "--format belongs to `config show`"),
        ("dump --timeout", "a value is required for '--timeout <SECONDS>' but none was supplied"),
        ("dump --shell-job=1", "unexpected value '1' for '--shell-job' found; no more were expected"),
    ] {
        assert_eq!(refused(line), message);
    }
}

#[test]
fn arguments_that_are_not_text_are_refused() {
    use std::os::unix::ffi::OsStringExt;
    let mut line = words("dump -o");
    line.push(OsString::from_vec(vec![0xff, b'a']));
    assert!(parse(line).is_err());
}

#[test]
fn help_and_version() {
    assert_eq!(parse(words("--version")), Ok(Request::Version));
    assert_eq!(parse(words("-V dump")), Ok(Request::Version));
    let main = Request::Help(help::text(None));
    for line in ["-h", "--help", "help", "--help bogus"] {
        assert_eq!(parse(words(line)).as_ref(), Ok(&main), "{line}");
    }
    let dump = Request::Help(help::text(Some(Command::Dump)));
    for line in ["dump -h", "--help dump", "help dump", "dump foo --help -t x"] {
        assert_eq!(parse(words(line)).as_ref(), Ok(&dump), "{line}");
    }
}

#[test]
fn help_fits_eighty_columns_and_two_columns() {
    let texts = Command::ALL.iter().map(|command| help::text(Some(*command)));
    for text in texts.chain([help::text(None)]) {
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
            assert!(!line.contains('\x1b'), "{line}");
        }
        // Options whose help does not fit beside them would flip the whole section into another layout.
        let alone = |line: &&str| line.trim_start().starts_with('-') && !line.trim().contains("  ");
        assert_eq!(text.lines().find(alone), None);
    }
}

#[test]
fn generated_texts_name_every_option() {
    let page = docs::options_markdown();
    let man = docs::man_page().unwrap();
    for option in criu_config::registry::OPTIONS {
        assert!(page.contains(&format!("`--{}", option.name)), "{}", option.name);
        if option.support == criu_config::registry::Support::Supported {
            let escaped = format!("\\-\\-{}", option.name.replace('-', "\\-"));
            assert!(man.contains(&escaped), "{}", option.name);
        }
    }
}

#[test]
fn completions_for_the_common_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let script = help::completions(shell, "criu").unwrap();
        assert!(script.contains("tcp-established"), "{shell}");
    }
    assert_eq!(help::completions("cmd", "criu"), None);
}
