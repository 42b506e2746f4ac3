//! Memory areas, pages, shared memory, mm fields and the vDSO
