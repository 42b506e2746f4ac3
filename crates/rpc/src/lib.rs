//! The protobuf service: swrk, service, notifications
