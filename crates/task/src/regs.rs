//! Registers of a thread: from a frozen thread into its core image and back.

use crate::arch::native;
use crate::error::Error;
use criu_images::proto::{self, core_entry::March};
use criu_resource::{BoxError, FrozenThread, Registers, ThreadRegisters};
use std::sync::LazyLock;

pub use native::{Interrupted, settle};

static LAYOUT: LazyLock<native::xstate::Layout> = LazyLock::new(native::xstate::Layout::native);

/// Asks the processor how it lays registers out. That takes a while in a virtual machine, and so is better done
/// before anybody stands still.
pub fn learn() {
    LazyLock::force(&LAYOUT);
}

/// The registers of this architecture.
pub struct NativeRegisters;

impl Registers for NativeRegisters {
    fn dump(&self, thread: &FrozenThread, core: &mut proto::CoreEntry) -> Result<(), BoxError> {
        Ok(to_image(thread, core)?)
    }

    fn restore(&self, core: &proto::CoreEntry) -> Result<ThreadRegisters, BoxError> {
        Ok(from_image(core)?)
    }

    fn aborted(&self, thread: &FrozenThread) -> Result<Option<u64>, BoxError> {
        Ok(crate::rseq::abort_ip(thread)?)
    }

    fn anew(&self, thread: &FrozenThread) -> Option<Vec<u64>> {
        native::anew(&thread.regs)
    }
}

/// Fills `mtype` and `thread_info` of a core image. An interrupted system call is [settled](settle) in the
/// image only; the frozen thread itself goes on as the kernel has it.
///
/// Comes before the answers of this crate's thread states, which add to `thread_info`.
///
/// # Errors
/// When the thread uses registers that images cannot hold.
pub fn to_image(thread: &FrozenThread, core: &mut proto::CoreEntry) -> Result<(), Error> {
    core.set_mtype(March::X8664);
    let info = core.thread_info.get_or_insert_default();
    info.gpregs = native::general_to_image(&thread.regs)?;
    info.fpregs = native::xstate::to_image(&thread.xstate, &LAYOUT)?;
    info.tls = native::no_tls();
    Ok(())
}

/// Reads the registers of a core image.
///
/// # Errors
/// Another architecture, a 32-bit task, a damaged image, and register sets in use that this processor lacks.
pub fn from_image(core: &proto::CoreEntry) -> Result<ThreadRegisters, Error> {
    if core.mtype() != March::X8664 {
        return Err(Error::Unsupported(format!("an image of architecture {}", core.mtype().as_str_name())));
    }
    let Some(info) = &core.thread_info else {
        return Err(Error::corrupt("core image", "it has no registers"));
    };
    if info.tls.iter().any(|desc| !desc.seg_not_present) {
        return Err(Error::Unsupported("a thread with segments of its own (set_thread_area)".into()));
    }
    Ok(ThreadRegisters {
        regs: native::general_from_image(&info.gpregs)?,
        xstate: native::xstate::from_image(&info.fpregs, &LAYOUT)?,
    })
}
