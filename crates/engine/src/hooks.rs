//! Whoever wants to take part in a dump or restore: action scripts, an RPC client, a signal handler.

use crate::{Error, Result};
use criu_resource::BoxError;

/// Stages at which others are told. The names are those of the reference's action scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Before anything is frozen.
    PreDump,
    /// The images are complete, the inventory among them; the tree is still frozen.
    PostDump,
    /// Before any task is created.
    PreRestore,
    /// All tasks are complete and stand still.
    PostRestore,
    /// Connections are about to be locked.
    NetworkLock,
    /// Connections are about to be unlocked; in a dump also when it has failed.
    NetworkUnlock,
    /// The root task is there; its namespaces may be filled.
    SetupNamespaces,
    /// Namespaces are ready.
    PostSetupNamespaces,
    /// The tasks are about to run.
    PreResume,
    /// The tasks run. Nothing can be undone any more.
    PostResume,
    /// A server waits for its clients.
    StatusReady,
}

impl Action {
    /// The name in CRTOOLS_SCRIPT_ACTION and in RPC notifications.
    pub fn name(self) -> &'static str {
        match self {
            Action::PreDump => "pre-dump",
            Action::PostDump => "post-dump",
            Action::PreRestore => "pre-restore",
            Action::PostRestore => "post-restore",
            Action::NetworkLock => "network-lock",
            Action::NetworkUnlock => "network-unlock",
            Action::SetupNamespaces => "setup-namespaces",
            Action::PostSetupNamespaces => "post-setup-namespaces",
            Action::PreResume => "pre-resume",
            Action::PostResume => "post-resume",
            Action::StatusReady => "status-ready",
        }
    }

    /// Whether it tells of what is over, so that nobody can prevent it and everybody has to know.
    pub fn is_news(self) -> bool {
        matches!(self, Action::NetworkUnlock | Action::PostResume)
    }
}

/// Takes part in a dump or restore.
pub trait Hooks {
    /// Called at each stage; an error fails the action and undoes it, where that is still possible. `root` is the
    /// root task's pid, once there is one.
    fn notify(&mut self, action: Action, root: Option<i32>) -> Result<(), BoxError>;
    /// Asked between steps: whether to stop and undo everything.
    fn cancelled(&self) -> bool;
}

/// Takes no part.
pub struct NoHooks;

impl Hooks for NoHooks {
    fn notify(&mut self, _: Action, _: Option<i32>) -> Result<(), BoxError> {
        Ok(())
    }

    fn cancelled(&self) -> bool {
        false
    }
}

pub(crate) fn notify(hooks: &mut dyn Hooks, action: Action, root: Option<i32>) -> Result<()> {
    if hooks.cancelled() {
        return Err(Error::Cancelled);
    }
    hooks.notify(action, root).map_err(|source| Error::Hook { action: action.name(), source })
}

/// Tells of something that no error can change.
pub(crate) fn inform(hooks: &mut dyn Hooks, action: Action, root: Option<i32>) {
    if let Err(error) = hooks.notify(action, root) {
        tracing::warn!("{}: {error}; this changes nothing", action.name());
    }
}
