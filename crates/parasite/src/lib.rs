//! Seize a task, inject the script machine, run scripts in it, cure it
