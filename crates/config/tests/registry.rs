//! The table against the reference's options and against the typed struct.

use criu_config::registry::{Arity, OPTIONS, find};
use criu_config::{Options, Sources, load};

#[test]
fn holds_every_option_of_the_reference() {
    let table = include_str!("reference-options.tsv");
    for line in table.lines().skip(1) {
        let [name, short, argument, no] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        if name == "help" || name == "version" {
            continue;
        }
        let option = find(name).unwrap_or_else(|| panic!("{name} is missing"));
        let arity = match argument {
            "none" => Arity::None,
            "optional" => Arity::Optional,
            _ => Arity::Required,
        };
        assert_eq!(option.arity(), arity, "{name}");
        assert_eq!(option.short.map(String::from).unwrap_or_default(), short, "{name}");
        assert_eq!(option.negatable, no == "yes", "{name}");
    }
}

#[test]
fn names_and_letters_are_unique() {
    for (at, option) in OPTIONS.iter().enumerate() {
        for other in &OPTIONS[..at] {
            assert_ne!(option.name, other.name);
            assert!(option.short.is_none() || option.short != other.short, "{}", option.name);
        }
    }
}

#[test]
fn the_struct_has_one_field_an_option_with_the_same_default() {
    let json = serde_json::to_value(Options::default()).unwrap();
    let fields = json.as_object().unwrap();
    for option in OPTIONS {
        assert_eq!(fields.get(option.name), Some(&option.default_value().to_json()), "{}", option.name);
    }
    assert_eq!(fields.len(), OPTIONS.len());
}

#[test]
fn nothing_set_means_the_defaults() {
    let config = load(&Sources::default()).unwrap();
    assert_eq!(config.options, Options::default());
    assert!(config.warnings.is_empty());
}
