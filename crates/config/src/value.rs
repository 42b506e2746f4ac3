//! Values: from the raw text of one setting to a typed value.

use serde::Serialize;

use crate::registry::{Item, Kind, Opt};
use crate::typed::CpuCap;

/// A setting's value as written, before its type is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Raw {
    /// The bare name.
    Bare,
    /// The `no-` form.
    Off,
    /// With an argument.
    Text(String),
}

/// One setting: an option, what was written, and where.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The option.
    pub option: &'static Opt,
    /// Its value as written.
    pub raw: Raw,
    /// Line of the file it stands in, counted from 1.
    pub line: Option<usize>,
}

impl PartialEq for Setting {
    fn eq(&self, other: &Self) -> bool {
        self.option.name == other.option.name && self.raw == other.raw && self.line == other.line
    }
}

/// A checked value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Nothing set.
    Null,
    /// A flag.
    Bool(bool),
    /// A number.
    Int(i64),
    /// Text, a path or a word.
    Text(String),
    /// Numbers.
    Ints(Vec<i64>),
    /// Texts.
    Texts(Vec<String>),
}

impl Value {
    /// As JSON.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// For people: words without quotes where that is clear, `-` for nothing, `on` and `off` for flags.
    pub fn to_text(&self) -> String {
        let join = |items: Vec<String>| if items.is_empty() { "[]".to_owned() } else { items.join(", ") };
        match self {
            Value::Null => "-".into(),
            Value::Bool(true) => "on".into(),
            Value::Bool(false) => "off".into(),
            Value::Int(number) => number.to_string(),
            Value::Text(text) if text.is_empty() => "\"\"".into(),
            Value::Text(text) => text.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'"),
            Value::Ints(items) => join(items.iter().map(i64::to_string).collect()),
            Value::Texts(items) => {
                join(items.iter().map(|item| Value::Text(item.clone()).to_text()).collect())
            }
        }
    }
}

impl Opt {
    /// The value where nothing sets one.
    pub fn default_value(&self) -> Value {
        match self.kind {
            Kind::Flag => Value::Bool(self.default == "on"),
            Kind::List(Item::Fd) => Value::Ints(Vec::new()),
            Kind::List(_) => Value::Texts(Vec::new()),
            // The default does not ask for the image; whatever is set does.
            Kind::CpuCap => Value::Text(CpuCap::DEFAULT.to_string()),
            _ if self.default.is_empty() => Value::Null,
            _ => self.apply(&Value::Null, &Raw::Text(self.default.into())).unwrap_or(Value::Null),
        }
    }

    /// The value after one more setting, given the value before it.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the setting.
    pub fn apply(&self, before: &Value, raw: &Raw) -> Result<Value, String> {
        let text = match (raw, self.kind, self.implied) {
            (Raw::Off, Kind::Flag, _) => return Ok(Value::Bool(false)),
            (Raw::Off, Kind::Ids, _) => return Ok(Value::Null),
            (Raw::Off, ..) => return Err("cannot be switched off".into()),
            (Raw::Bare, Kind::Flag, _) => return Ok(Value::Bool(true)),
            (Raw::Text(_), Kind::Flag, _) => return Err("takes no value".into()),
            (Raw::Bare, Kind::Count, _) => {
                let level = if let Value::Int(level) = before { *level } else { 0 };
                return Ok(Value::Int(level.saturating_add(1)));
            }
            (Raw::Bare, Kind::Ids, _) => "",
            (Raw::Bare, _, Some(implied)) => implied,
            (Raw::Bare, ..) => return Err(format!("needs a value: {}", self.value_name)),
            (Raw::Text(text), ..) => text,
        };
        if text.contains('\0') {
            return Err("contains a zero byte".into());
        }
        match self.kind {
            Kind::Flag => Err("takes no value".into()),
            Kind::Text => Ok(Value::Text(text.into())),
            Kind::Path if text.is_empty() => Err("is an empty path".into()),
            Kind::Path => Ok(Value::Text(text.into())),
            Kind::Count => number(text, 0, i64::from(u8::MAX)).map(Value::Int),
            Kind::Int(min, max) => number(text, min, max).map(Value::Int),
            Kind::Size => size(text).map(Value::Int),
            Kind::Choice(choices) => choices
                .iter()
                .find(|choice| choice.name == text || choice.alias == Some(text))
                .map(|choice| Value::Text(choice.name.into()))
                .ok_or_else(|| {
                    let names: Vec<_> = choices.iter().map(|choice| choice.name).collect();
                    format!("«{text}» is not one of: {}", names.join(", "))
                }),
            Kind::CpuCap => {
                let before = match before {
                    Value::Text(caps) => caps.parse().unwrap_or_default(),
                    _ => CpuCap::NONE,
                };
                Ok(Value::Text(before.apply(text)?.to_string()))
            }
            Kind::Ids => {
                let mut ids = if let Value::Ints(ids) = before { ids.clone() } else { Vec::new() };
                for id in text.split(',').filter(|id| !id.is_empty()) {
                    ids.push(number(id, 1, i64::from(u32::MAX))?);
                }
                Ok(Value::Ints(ids))
            }
            Kind::List(Item::Fd) => {
                let mut items = if let Value::Ints(items) = before { items.clone() } else { Vec::new() };
                items.push(number(text, 0, i64::from(i32::MAX))?);
                Ok(Value::Ints(items))
            }
            Kind::List(item) => {
                let mut items = if let Value::Texts(items) = before { items.clone() } else { Vec::new() };
                match item {
                    Item::Words => items.extend(text.split(',').filter(|w| !w.is_empty()).map(String::from)),
                    Item::Form(form, fits) if !fits(text) => {
                        return Err(format!("«{text}» does not have the form {form}"));
                    }
                    _ if text.is_empty() => return Err(format!("needs a value: {}", self.value_name)),
                    _ => items.push(text.into()),
                }
                Ok(Value::Texts(items))
            }
        }
    }
}

fn number(text: &str, min: i64, max: i64) -> Result<i64, String> {
    let number: i64 = text.trim().parse().map_err(|_| format!("«{text}» is not a whole number"))?;
    if (min..=max).contains(&number) {
        Ok(number)
    } else {
        Err(format!("{number} is not between {min} and {max}"))
    }
}

fn size(text: &str) -> Result<i64, String> {
    let trimmed = text.trim();
    let (digits, factor) = match trimmed.char_indices().last() {
        Some((at, 'k' | 'K')) => (&trimmed[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&trimmed[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&trimmed[..at], 1 << 30),
        _ => (trimmed, 1),
    };
    let number = digits.parse::<u32>().map(i64::from).or_else(|_| digits.parse::<i64>());
    number
        .ok()
        .filter(|number| *number >= 0)
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| format!("«{text}» is not a size (a number, with K, M or G behind it if wanted)"))
}
