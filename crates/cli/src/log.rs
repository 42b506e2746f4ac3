//! The log: the field's line format, which container runtimes search for `Error`.
//!
//! `(00.012345) Error (crates/net/src/tcp.rs:88): net: …`, times in seconds since the start. Buffered;
//! errors are written through at once. Without a log file, errors and warnings go to stderr.

use serde_json::json;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::{filter::LevelFilter, registry};

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people and for runtimes.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

struct Log {
    level: LevelFilter,
    format: Format,
    start: Instant,
    /// `None`: stderr.
    file: Option<BufWriter<File>>,
    /// A line of [`status`] is on the screen.
    status: bool,
}

static LOG: Mutex<Option<Log>> = Mutex::new(None);

fn log() -> MutexGuard<'static, Option<Log>> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a log in place of the one before. `verbosity` is that of `-v`: 0 to 4.
pub fn start(file: Option<File>, verbosity: u8, format: Format) {
    flush();
    let level = match verbosity {
        0 => LevelFilter::OFF,
        1 => LevelFilter::ERROR,
        2 => LevelFilter::WARN,
        3 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let file = file.map(|file| BufWriter::with_capacity(64 << 10, file));
    *log() = Some(Log { level, format, start: Instant::now(), file, status: false });
    // Fails when an earlier call has done it.
    let _ = tracing::subscriber::set_global_default(registry().with(Lines));
}

/// Whether there is a log yet.
pub fn started() -> bool {
    log().is_some()
}

/// Writes out what is buffered: before a fork, and before the end.
pub fn flush() {
    if let Some(Log { file: Some(file), .. }) = &mut *log() {
        let _ = file.flush(); // nowhere left to report it
    }
}

/// Whether a line that changes can stand on stderr: a terminal, and not one where the log runs through.
pub fn takes_status() -> bool {
    let quiet = |log: &Log| log.file.is_some() || log.level <= LevelFilter::WARN;
    log().as_ref().is_some_and(quiet) && io::stderr().is_terminal()
}

/// Puts a line on the terminal in place of the one before; an empty one takes that away.
pub fn status(line: &str) {
    let mut log = log();
    let Some(log) = log.as_mut().filter(|log| log.status || !line.is_empty()) else { return };
    log.status = !line.is_empty();
    let _ = io::stderr().write_all(format!("{CLEAR}{line}").as_bytes()); // only for whoever looks
}

/// Back to the start of the terminal's line, which is then empty.
const CLEAR: &str = "\r\x1b[K";

struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut log = log();
        let Some(log) = log.as_mut().filter(|log| *event.metadata().level() <= log.level) else { return };
        let mut text = Text::default();
        event.record(&mut text);
        let line = log.line(event, &text);
        let urgent = *event.metadata().level() == Level::ERROR;
        // A full disk is no reason to fail a dump: its images would say so themselves.
        let _ = match &mut log.file {
            None => {
                let clear = if std::mem::take(&mut log.status) { CLEAR } else { "" };
                io::stderr().write_all(format!("{clear}{line}").as_bytes())
            }
            Some(file) => {
                file.write_all(line.as_bytes()).and_then(|()| if urgent { file.flush() } else { Ok(()) })
            }
        };
    }
}

impl Log {
    fn line(&self, event: &Event<'_>, text: &Text) -> String {
        let meta = event.metadata();
        let place = format!("{}:{}", meta.file().unwrap_or(meta.target()), meta.line().unwrap_or(0));
        let time = self.start.elapsed();
        if self.format == Format::Json {
            let object = json!({
                "time": time.as_secs_f64(), "level": meta.level().as_str().to_lowercase(),
                "place": place, "pid": std::process::id(), "message": text.0,
            });
            return format!("{object}\n");
        }
        let mut line = format!("({:02}.{:06}) ", time.as_secs(), time.subsec_micros());
        let _ = match *meta.level() {
            Level::ERROR => write!(line, "Error ({place}): "),
            Level::WARN => write!(line, "Warn  ({place}): "),
            _ => Ok(()),
        };
        line.push_str(&text.0);
        line.push('\n');
        line
    }
}

/// The message, and other fields behind it as `name=value`.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
