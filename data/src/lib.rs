//! Training data: documents of any store, tokenised, packed into sequences, in an order that no mesh changes.
