//! What images are called and where they are looked for.

pub(crate) mod reference;
pub(crate) mod registries;
