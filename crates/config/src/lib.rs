//! Option registry, layered configuration with provenance, configuration file syntax
