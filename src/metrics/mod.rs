//! placeholder
#[derive(Debug, Default)] pub struct Metrics;
