//! The syntax of configuration files.

use criu_config::file::{self, Wrong};
use criu_config::registry::{Arity, Item, Kind, OPTIONS, Opt};
use criu_config::{Raw, Setting, Sources, load};
use proptest::prelude::*;

/// The settings of a text as `name=value` words, in which `~` stands for no value and `!` for the `no-` form.
fn read(text: &str) -> Vec<String> {
    let (settings, errors) = file::parse(text.as_bytes());
    assert_eq!(errors, []);
    let show = |setting: Setting| match setting.raw {
        Raw::Bare => format!("{}~", setting.option.name),
        Raw::Off => format!("!{}", setting.option.name),
        Raw::Text(text) => format!("{}={text}", setting.option.name),
    };
    settings.into_iter().map(show).collect()
}

#[test]
fn what_the_reference_documents() {
    let text = "tcp-established\n\
                work-dir \"/home/USERNAME/criu/my \\\"work\\\" directory\"\n\
                #this is a comment\n\
                no-restore-sibling   # this is another comment\n";
    assert_eq!(
        read(text),
        ["tcp-established~", "work-dir=/home/USERNAME/criu/my \"work\" directory", "!restore-sibling"]
    );
}

#[test]
fn lines_one_by_one() {
    for (line, expected) in [
        ("", None),
        ("   \t", None),
        ("   # comment", None),
        ("\tshell-job\r", Some("shell-job~")),
        ("shell-job#comment", Some("shell-job~")),
        ("log-file a.log", Some("log-file=a.log")),
        ("log-file \t a.log   # comment", Some("log-file=a.log")),
        ("log-file a#b", Some("log-file=a")),
        ("log-file \"a # b\" # comment", Some("log-file=a # b")),
        ("log-file \"a\\b\"", Some("log-file=a\\b")),
        ("log-file a\\\"b", Some("log-file=a\"b")),
        ("log-file=a.log", Some("log-file=a.log")),
        ("verbosity", Some("verbosity~")),
        ("verbosity 4", Some("verbosity=4")),
        ("verbosity=4", Some("verbosity=4")),
        ("manage-cgroups strict", Some("manage-cgroups=strict")),
        ("manage-cgroups \"\"", Some("manage-cgroups~")),
        ("lsm-profile \"\"", Some("lsm-profile=")),
    ] {
        assert_eq!(read(line), expected.into_iter().collect::<Vec<_>>(), "{line}");
    }
}

#[test]
fn repeated_options_collect() {
    assert_eq!(read("external a[1]\nexternal b[2]"), ["external=a[1]", "external=b[2]"]);
}

#[test]
fn every_wrong_line_is_reported() {
    let text = b"bogus\nlog-file a b\nlog-file\n\xff\n=x\nno-tree\nlog-file \"\"\nlog-file \"a\"b\nno-shell-job 1\nnetwork-lock ipt\ntimeout\nshell-jbo\n";
    let (settings, errors) = file::parse(text);
    assert!(settings.is_empty());
    let lines: Vec<_> = errors.iter().map(|error| error.line).collect();
    assert_eq!(lines, (1..=12).collect::<Vec<_>>());
    assert_eq!(errors[0].what, Wrong::UnknownKey { key: "bogus".into(), nearest: None });
    let nearest = Some("shell-job".into());
    assert_eq!(errors[11].what, Wrong::UnknownKey { key: "shell-jbo".into(), nearest });
}

#[test]
fn what_a_file_cannot_hold() {
    for value in ["a\nb", "a b\\"] {
        let setting = Setting::with("cgroup-props", value).unwrap();
        assert!(file::format([&setting]).is_err(), "{value:?}");
    }
}

/// A setting that the option takes.
fn setting(option: &'static Opt) -> BoxedStrategy<Setting> {
    let text: BoxedStrategy<String> = match option.kind {
        Kind::Flag if option.negatable => {
            let raw = prop_oneof![Just(Raw::Bare), Just(Raw::Off)];
            return raw.prop_map(move |raw| Setting { option, raw, line: None }).boxed();
        }
        Kind::Flag => return Just(Setting { option, raw: Raw::Bare, line: None }).boxed(),
        Kind::Text | Kind::Path | Kind::List(Item::Text) => "[^\0\n]{1,12}".boxed(),
        Kind::List(Item::Words) => "[a-z]{1,5}(,[a-z]{1,5}){0,2}".boxed(),
        Kind::List(Item::Form(..)) => match option.name {
            "inherit-fd" => "fd\\[[0-9]\\]:[^\0\n]{1,12}".boxed(),
            "veth-pair" => "[a-z\" #]{1,5}=[a-z\" #]{1,5}".boxed(),
            _ => "[a-z\" #]{1,5}:[a-z\" #]{1,5}".boxed(),
        },
        Kind::List(Item::Fd) | Kind::Int(..) | Kind::Count | Kind::Ids => "[1-9]{1,2}".boxed(),
        Kind::Size => "[1-9]{1,6}[KMG]?".boxed(),
        Kind::CpuCap => "\\^?(cpu|fpu|ins|all|none)".boxed(),
        Kind::Choice(choices) => {
            proptest::sample::select(choices).prop_map(|choice| choice.name.to_owned()).boxed()
        }
    };
    let bare = option.arity() == Arity::Optional;
    (text, any::<bool>())
        .prop_map(move |(text, leave_out)| {
            let raw = if bare && leave_out { Raw::Bare } else { Raw::Text(text) };
            Setting { option, raw, line: None }
        })
        .boxed()
}

fn settings() -> impl Strategy<Value = Vec<Setting>> {
    let one = proptest::sample::select(OPTIONS.iter().collect::<Vec<_>>()).prop_flat_map(setting);
    proptest::collection::vec(one, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_formatted_configuration_parses_back_to_itself(settings in settings()) {
        // The few values that the syntax cannot hold are refused, never written wrongly.
        if let Ok(text) = file::format(&settings) {
            let (mut read, errors) = file::parse(text.as_bytes());
            prop_assert_eq!(errors, []);
            read.iter_mut().for_each(|setting| setting.line = None);
            prop_assert_eq!(read, settings);
        }
    }

    #[test]
    fn any_bytes_give_settings_or_errors(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = file::parse(&bytes);
    }

    #[test]
    fn any_text_of_likely_characters_gives_settings_or_errors(
        text in "((no-)?[a-z-]{1,9}|timeout|ext-unix-sk|cpu-cap)[ =\"\\\\#^,0-9KMGé\n]{0,20}",
    ) {
        let (settings, errors) = file::parse(text.as_bytes());
        prop_assert!(settings.len() + errors.len() <= text.lines().count());
    }

    #[test]
    fn what_parses_also_loads(text in "(((no-)?(shell-job|tls)|timeout|port|tree|ext-unix-sk|cpu-cap|close|external|verbosity) ?[\"^,0-9acfilnopsu]{0,5}\n){1,6}") {
        let (settings, _) = file::parse(text.as_bytes());
        let loaded = load(&Sources { arguments: settings.clone(), ..Sources::default() });
        prop_assert!(loaded.is_ok(), "{:?}", loaded.err());
        let changed = loaded.map(|config| config.provenance.entries.iter().filter(|entry| entry.is_set()).count());
        let mut names: Vec<_> = settings.iter().map(|setting| setting.option.name).collect();
        names.sort_unstable();
        names.dedup();
        prop_assert_eq!(changed, Ok(names.len()));
    }
}
