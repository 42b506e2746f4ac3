//! Work that runs beside the questions to the tasks.

use std::panic;
use std::thread::{Scope, ScopedJoinHandle};

/// Work for another thread. Where a thread costs more than it saves, it waits for its end to be asked for.
pub(crate) enum Aside<'scope, T> {
    Runs(ScopedJoinHandle<'scope, T>),
    Waits(Box<dyn FnOnce() -> T + 'scope>),
}

impl<'scope, T: Send + 'scope> Aside<'scope, T> {
    /// Starts a thread if it is `worthwhile`.
    pub(crate) fn start(
        scope: &'scope Scope<'scope, '_>,
        worthwhile: bool,
        work: impl FnOnce() -> T + Send + 'scope,
    ) -> Self {
        match worthwhile {
            true => Aside::Runs(scope.spawn(work)),
            false => Aside::Waits(Box::new(work)),
        }
    }

    /// What the work returns, once it is done.
    pub(crate) fn end(self) -> T {
        match self {
            Aside::Runs(thread) => thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic)),
            Aside::Waits(work) => work(),
        }
    }
}
