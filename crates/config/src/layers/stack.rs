//! Folding layers over each other: values add up or replace, and nothing is forgotten.

use figment::value::{Dict, Map};
use figment::{Figment, Metadata, Profile, Provider};

use super::{Layer, LayerKind, Origin};
use crate::provenance::{Entry, Past, Provenance};
use crate::registry::{OPTIONS, Opt};
use crate::value::{Raw, Value};
use crate::{Options, Problem};

/// The values in effect after each layer.
pub(crate) struct Stack {
    entries: Vec<Entry>,
    figment: Figment,
    problems: Vec<Problem>,
}

/// What one layer sets, as figment wants it: values already added to those of weaker layers.
struct Resolved<'a> {
    layer: &'a Layer,
    values: Dict,
}

impl Provider for Resolved<'_> {
    fn metadata(&self) -> Metadata {
        let metadata = Metadata::named(self.layer.kind.name());
        match &self.layer.path {
            Some(path) => metadata.source(path.as_path()),
            None => metadata,
        }
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

impl Stack {
    /// Built-in defaults only.
    pub(crate) fn new() -> Self {
        let entries = OPTIONS.iter().map(|option| Entry {
            option,
            value: option.default_value(),
            origin: Origin::of(LayerKind::Default),
            overrides: Vec::new(),
        });
        let defaults = figment::providers::Serialized::defaults(Options::default());
        Stack { entries: entries.collect(), figment: Figment::from(defaults), problems: Vec::new() }
    }

    /// Lays one more layer on top.
    pub(crate) fn push(&mut self, layer: &Layer) {
        let mut touched = Vec::new();
        for setting in &layer.settings {
            let origin = layer.origin(setting.line);
            let Some(entry) = self.entry(setting.option) else { continue };
            match setting.option.apply(&entry.value, &setting.raw) {
                Ok(value) => entry.touch(value, origin.clone()),
                Err(reason) => {
                    let option = setting.option.name.into();
                    self.problems.push(Problem::Value { origin, option, reason });
                    continue;
                }
            }
            touched.push(setting.option.name);
            let other = setting.option.unsets.filter(|_| setting.raw == Raw::Bare);
            if let Some(other) = self.entries.iter_mut().find(|entry| Some(entry.option.name) == other)
                && other.value != Value::Bool(false)
            {
                other.touch(Value::Bool(false), origin);
                touched.push(other.option.name);
            }
        }
        let mut values = Dict::new();
        for entry in self.entries.iter().filter(|entry| touched.contains(&entry.option.name)) {
            match figment::value::Value::serialize(&entry.value) {
                Ok(value) => drop(values.insert(entry.option.name.into(), value)),
                Err(error) => self.problems.push(Problem::Internal(error.to_string())),
            }
        }
        let figment = std::mem::take(&mut self.figment);
        self.figment = figment.merge(Resolved { layer, values });
    }

    fn entry(&mut self, option: &Opt) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.option.name == option.name)
    }

    /// The typed values, where each comes from, and what was wrong on the way.
    pub(crate) fn finish(self) -> (Options, Provenance, Vec<Problem>) {
        let mut problems = self.problems;
        let options = self.figment.extract().unwrap_or_else(|error: figment::Error| {
            problems.push(Problem::Internal(error.to_string()));
            Options::default()
        });
        (options, Provenance { entries: self.entries }, problems)
    }
}

impl Entry {
    fn touch(&mut self, value: Value, origin: Origin) {
        let same_layer = self.origin.layer == origin.layer;
        if !(same_layer && self.option.accumulates()) && self.origin != origin {
            let past = Past { value: std::mem::replace(&mut self.value, value), origin: self.origin.clone() };
            self.overrides.push(past);
        } else {
            self.value = value;
        }
        self.origin = origin;
    }
}
