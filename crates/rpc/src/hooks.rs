//! Those who are told at every stage of a dump or restore, and who can stop it.

use crate::Client;
use criu_engine::{Action, Hooks, guard};

/// An error of a hook.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Stops the work on SIGINT, SIGTERM and SIGHUP (see [`guard::cancelled`]).
#[derive(Clone, Copy, Debug, Default)]
pub struct SignalHooks;

impl Hooks for SignalHooks {
    fn notify(&mut self, action: Action, _: Option<i32>) -> Result<(), BoxError> {
        tracing::debug!("stage {}", action.name());
        Ok(())
    }

    fn cancelled(&self) -> bool {
        guard::cancelled()
    }
}

/// Tells an RPC client, if it wants to know, and stops when it is gone: nobody would learn of the result.
#[derive(Clone, Debug)]
pub struct ClientHooks(pub Client);

impl Hooks for ClientHooks {
    fn notify(&mut self, action: Action, root: Option<i32>) -> Result<(), BoxError> {
        Ok(self.0.notify(action.name(), root)?)
    }

    fn cancelled(&self) -> bool {
        self.0.has_hung_up()
    }
}

/// Several hooks, told in order. The first that fails ends the action; of what is over ([`Action::is_news`]) all
/// are told.
#[derive(Default)]
pub struct HookChain<'a>(pub Vec<Box<dyn Hooks + 'a>>);

impl Hooks for HookChain<'_> {
    fn notify(&mut self, action: Action, root: Option<i32>) -> Result<(), BoxError> {
        let told = self.0.iter_mut().map(|hooks| hooks.notify(action, root));
        match action.is_news() {
            true => told.collect::<Vec<_>>().into_iter().collect(),
            false => told.collect(), // which ends at the first error
        }
    }

    fn cancelled(&self) -> bool {
        self.0.iter().any(|hooks| hooks.cancelled())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    struct Note<'a>(&'a RefCell<Vec<u8>>, u8, bool);

    impl Hooks for Note<'_> {
        fn notify(&mut self, _: Action, _: Option<i32>) -> Result<(), BoxError> {
            self.0.borrow_mut().push(self.1);
            if self.2 { Err("no".into()) } else { Ok(()) }
        }

        fn cancelled(&self) -> bool {
            self.2
        }
    }

    #[test]
    fn a_chain_ends_at_the_first_error_but_for_news() {
        let notes = RefCell::new(Vec::new());
        let link = |number, fails| Box::new(Note(&notes, number, fails)) as Box<dyn Hooks>;
        let mut chain = HookChain(vec![link(1, false), link(2, true), link(3, false)]);
        assert!(chain.notify(Action::PreDump, None).is_err());
        assert!(chain.cancelled());
        assert_eq!(*notes.borrow(), [1, 2]);
        assert!(chain.notify(Action::NetworkUnlock, None).is_err());
        assert_eq!(*notes.borrow(), [1, 2, 1, 2, 3], "what is locked must be unlocked by all");
    }
}
