//! The dump and restore pipelines over the resource traits
