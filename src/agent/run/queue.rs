//! Which run starts next: pure.
