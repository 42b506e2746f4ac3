//! Memory copied ahead of a dump, while its tasks run.
//!
//! The copy need not be of one moment: the dump that follows compares every page with it and stores what differs.
//! So the tasks stand still only while their areas are listed.

use crate::collect::Collected;
use crate::pages::Source;
use crate::{Memory, parent};
use criu_resource::{Ahead, BoxError, Copy, DumpContext, FrozenTree};

impl Ahead for Memory {
    fn look_ahead<'t>(
        &'t self,
        tree: &FrozenTree<'_>,
        context: &'t DumpContext<'t>,
    ) -> Result<Copy<'t>, BoxError> {
        let mut found = Collected::of(tree)?;
        let mut jobs = found.jobs(self.pages_ids(), Source::Running)?;
        for job in &mut jobs {
            // The dump will have to store these itself.
            job.runs = parent::without(&job.runs, &job.own);
        }
        Ok(Box::new(move || self.store(context.store, jobs)))
    }
}
