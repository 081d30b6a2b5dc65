//! What images are made of: documents and layers, verified before anybody uses them.

pub(crate) mod document;
pub(crate) mod pipe;
pub(crate) mod tarstream;
pub(crate) mod unpack;
