//! The sections under `quantize`. TorchTitan reads each only where `model.converters` names it.

use super::section;
use crate::config::choice::{Float8Recipe, MxCastKernel, MxRecipe};

section! {
    /// Low precision.
    Quantize {
        sections {
            /// Of linear layers.
            linear: QuantizeLinear,
            /// Of experts.
            grouped_mm: QuantizeGroupedMm,
        }
    }
}

section! {
    /// Low precision of linear layers.
    QuantizeLinear {
        sections {
            /// In 8 bits.
            float8: QuantizeLinearFloat8,
            /// In 8 bits, with a scale per block.
            mx: QuantizeLinearMx,
        }
    }
}

section! {
    /// Low precision of experts.
    QuantizeGroupedMm {
        sections {
            /// In 8 bits.
            float8: QuantizeGroupedMmFloat8,
            /// In 8 bits, with a scale per block.
            mx: QuantizeGroupedMmMx,
        }
    }
}

section! {
    /// Linear layers in 8 bits.
    QuantizeLinearFloat8 {
        /// Gather parameters in 8 bits.
        enable_fsdp_float8_all_gather: bool = false, inert("model.converters");
        /// Compute the scales of all parameters at once.
        precompute_float8_dynamic_scale_for_fsdp: bool = false, inert("model.converters");
        /// Which scales.
        recipe_name: Option<Float8Recipe> = None, inert("model.converters");
        /// Layers with these in their names stay as they are.
        filter_fqns: Vec<String> = Vec::new(), inert("model.converters");
        /// Compute as if in 8 bits.
        emulate: bool = false, inert("model.converters");
    }
}

section! {
    /// Linear layers in 8 bits, with a scale per block.
    QuantizeLinearMx {
        /// What converts along the other dim.
        mxfp8_dim1_cast_kernel_choice: MxCastKernel = MxCastKernel::Triton, inert("model.converters");
        /// Which scales.
        recipe_name: MxRecipe = MxRecipe::Cublas, inert("model.converters");
        /// Layers with these in their names stay as they are.
        filter_fqns: Vec<String> = vec!["output".to_owned()], inert("model.converters");
    }
}

section! {
    /// Experts in 8 bits.
    QuantizeGroupedMmFloat8 {
        /// Modules with these in their names.
        fqns: Vec<String> = Vec::new(), inert("model.converters");
    }
}

section! {
    /// Experts in 8 bits, with a scale per block.
    QuantizeGroupedMmMx {
        /// Which scales.
        recipe_name: String = "mxfp8".to_owned(), inert("model.converters");
        /// Modules with these in their names.
        fqns: Vec<String> = Vec::new(), inert("model.converters");
    }
}
