//! Where each value comes from, and what it overrode.

use std::fmt::Write as _;

use serde_json::json;

use crate::layers::{LayerKind, Origin};
use crate::registry::Opt;
use crate::value::Value;

/// The history of every option.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// One entry an option, in the order of the registry.
    pub entries: Vec<Entry>,
}

/// The history of one option.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The option.
    pub option: &'static Opt,
    /// The value in effect.
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
    /// The values it replaced, oldest (weakest) first. A list grows: here it is as it was before.
    pub overrides: Vec<Past>,
}

/// A value that a stronger layer replaced.
#[derive(Clone, Debug)]
pub struct Past {
    /// The value.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

impl Entry {
    /// Whether some layer sets the option.
    pub fn is_set(&self) -> bool {
        self.origin.layer != LayerKind::Default
    }

    /// Whether its value differs from the built-in one.
    pub fn is_changed(&self) -> bool {
        self.value != self.option.default_value()
    }

    /// The values that somebody set and that are no longer in effect.
    pub fn overridden(&self) -> impl Iterator<Item = &Past> {
        self.overrides
            .iter()
            .filter(|past| past.origin.layer != LayerKind::Default && past.value != self.value)
    }
}

impl Provenance {
    /// The history of the option of this name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.option.name == name)
    }

    /// One line for each set value that another layer overrode, for the log.
    pub fn overridden(&self) -> Vec<String> {
        let line = |entry: &Entry| {
            entry.overridden().next()?;
            let past: Vec<_> = entry
                .overridden()
                .map(|past| format!("{} ({})", past.value.to_text(), past.origin))
                .collect();
            let (name, value) = (entry.option.name, entry.value.to_text());
            Some(format!("{name} is {value} ({}), overriding {}", entry.origin, past.join(", ")))
        };
        self.entries.iter().filter_map(line).collect()
    }

    /// A JSON array of `{"name","value","layer","path","line","overrides"}`, one object an option.
    pub fn to_json(&self) -> serde_json::Value {
        let place = |value: &Value, origin: &Origin| {
            json!({
                "value": value.to_json(),
                "layer": origin.layer,
                "path": origin.path.as_ref().map(|path| path.to_string_lossy()),
                "line": origin.line,
            })
        };
        let object = |entry: &Entry| {
            let mut object = json!({ "name": entry.option.name });
            let overrides = entry.overrides.iter().map(|past| place(&past.value, &past.origin));
            if let (Some(fields), serde_json::Value::Object(place)) =
                (object.as_object_mut(), place(&entry.value, &entry.origin))
            {
                fields.extend(place);
                fields.insert("overrides".into(), overrides.collect());
            }
            object
        };
        self.entries.iter().map(object).collect()
    }

    /// A table for people: changed values first, then the rest. `color` adds terminal escapes.
    pub fn to_text(&self, color: bool) -> String {
        let (set, rest): (Vec<_>, Vec<_>) = self.entries.iter().partition(|entry| entry.is_set());
        let rows: Vec<_> = set.into_iter().chain(rest).collect();
        let name_width = rows.iter().map(|row| row.option.name.len()).max().unwrap_or(0);
        let shown: Vec<_> = rows.iter().map(|row| row.value.to_text()).collect();
        let value_width =
            shown.iter().map(|text| text.chars().count()).filter(|n| *n <= 32).max().unwrap_or(0);
        let (bold, dim, off) = if color { ("\x1b[1m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
        let mut text = String::new();
        for (row, value) in rows.iter().zip(&shown) {
            let style = if row.is_set() { bold } else { dim };
            let name = row.option.name;
            let _ = write!(text, "{style}{name:name_width$}{off}  {value:value_width$}  {dim}{}", row.origin);
            if row.origin.path.is_some() {
                let _ = write!(text, " [{}]", row.origin.layer.name());
            }
            for past in row.overrides.iter().rev().filter(|past| past.origin.layer != LayerKind::Default) {
                let _ = write!(text, "; overrides {} ({})", past.value.to_text(), past.origin);
            }
            let _ = writeln!(text, "{off}");
        }
        text
    }
}
