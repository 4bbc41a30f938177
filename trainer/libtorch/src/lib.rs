//! The build script of this crate finds libtorch, before anything is compiled against it, and says what to run when it
//! is not there. It gives `DEP_TITAN_LIBTORCH_FOLDER`, an absolute path, to the build scripts of those that depend on it.
