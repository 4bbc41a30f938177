//! Which outputs of a unit's forward pass are kept for its backward pass, and which are computed again: selective activation
//! checkpointing by operations (torchtitan 0.2, `activation_checkpoint.selective_ac_option = "op"`).
//!
//! The forward pass makes its graph as always. Then the memory of some outputs is given up; their tensors stay in the graph.
//! Before the backward pass the unit is computed once more: a kept output stands for its operation, and what else comes
//! out goes into the memory of its tensor again. The backward pass is libtorch's own, on any device, and no bit of it
//! differs.
//!
//! Kept are, per unit: its input; the outputs of attention, and of the first, third, fifth matrix product and so on; and what
//! libtorch saves inside an operation, which on a CPU are two tensors per norm. Matrix products with a weight of one of
//! the shapes that are always computed again are not counted. Where ranks share layers, sums over ranks are kept, and the whole
//! sequence is gathered again, by all ranks alike. A kept operation may not draw random numbers: those after it
//! would get others the second time.

use crate::error::{Error, Result};
use crate::ffi::autograd::rewriting;
use crate::ffi::memory::{allocate_storage, free_storage, storage_byte_len};
use std::cell::{Cell, RefCell};
use tch::{Tensor, no_grad};

/// The outputs of one unit for one microbatch, in the order of the forward pass.
#[derive(Debug)]
pub struct Tape {
    /// Weights of matrix products that are always computed again, by shape.
    again: Vec<Vec<i64>>,
    /// Matrix products so far, without those.
    products: Cell<usize>,
    outputs: RefCell<Vec<Output>>,
    /// The output that comes next; none while the first pass records them.
    next: Cell<Option<usize>>,
}

#[derive(Debug)]
struct Output {
    tensor: Tensor,
    /// Of its storage; none where it is kept.
    given_up_byte_len: Option<usize>,
}

impl Tape {
    /// Nothing recorded yet. Products with a weight of one of these shapes are computed again.
    pub fn new(again: Vec<Vec<i64>>) -> Self {
        let (products, outputs, next) = Default::default();
        Tape { again, products, outputs, next }
    }

    /// The output of an operation: computed; the second time taken from what is kept, or put into its memory.
    ///
    /// Errors: what `compute` gives; [`Error::Usage`] for an operation that was not there the first time.
    pub fn output(&self, is_kept: bool, compute: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
        let Some(next) = self.next.get() else {
            let output = compute()?;
            let tensor = output.detach();
            let given_up_byte_len =
                (!is_kept).then(|| storage_byte_len(&tensor)).transpose()?.filter(|&len| len > 0);
            self.outputs.borrow_mut().push(Output { tensor, given_up_byte_len });
            return Ok(output);
        };
        self.next.set(Some(next + 1));
        let (tensor, byte_len) = match self.outputs.borrow().get(next) {
            Some(output) => (output.tensor.shallow_clone(), output.given_up_byte_len),
            None => return Err(Error::Usage(format!("a unit has {next} operations, and then more"))),
        };
        let Some(byte_len) = byte_len else { return Ok(tensor) };
        let computed = compute()?;
        allocate_storage(&tensor, byte_len)?;
        // The same content as when autograd saved it.
        rewriting(&[&tensor], || no_grad(|| tensor.shallow_clone().f_copy_(&computed).map(drop)))??;
        Ok(tensor)
    }

    /// The output of a matrix product with a weight: every second one is kept, and one that must be.
    ///
    /// Errors: as of [`Tape::output`].
    pub fn product(
        &self,
        weight: &Tensor,
        is_kept: bool,
        compute: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        let is_counted = !self.again.contains(&weight.size());
        let before = self.products.get();
        self.products.set(before + usize::from(is_counted));
        self.output(is_kept || is_counted && before.is_multiple_of(2), compute)
    }

    /// Ends the recording, and gives up the memory of what is not kept. `others` are tensors that stay.
    ///
    /// Errors: [`Error::Usage`] where one that stays is a view of what is given up: that must be computed anew.
    pub fn give_up(&self, others: &[&Tensor]) -> Result<()> {
        let outputs = self.outputs.borrow();
        let (given_up, kept): (Vec<_>, Vec<_>) =
            outputs.iter().partition(|output| output.given_up_byte_len.is_some());
        given_up.iter().try_for_each(|output| free_storage(&output.tensor))?;
        for stays in kept.iter().map(|output| &output.tensor).chain(others.iter().copied()) {
            if stays.numel() > 0 && storage_byte_len(stays)? == 0 {
                return Err(Error::Usage(format!(
                    "a tensor {:?} that is kept shares its memory with one that is to be computed again; keep both",
                    stays.size()
                )));
            }
        }
        self.products.set(0);
        self.next.set(Some(0));
        Ok(())
    }

    /// Bytes of memory that was given up, and of the outputs that are kept.
    pub fn byte_lens(&self) -> (usize, usize) {
        let outputs = self.outputs.borrow();
        let given_up = outputs.iter().filter_map(|output| output.given_up_byte_len).sum();
        let kept = outputs.iter().filter(|output| output.given_up_byte_len.is_none());
        let bytes = |output: &Output| output.tensor.numel() * output.tensor.kind().elt_size_in_bytes();
        (given_up, kept.map(bytes).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::autograd::{backward, leaf, take_grad};
    use tch::{Device, Kind, with_grad};

    fn input() -> Tensor {
        leaf(&Tensor::arange(6, (Kind::Float, Device::Cpu)))
    }

    /// `exp(sin(x)) x`, of which the sine alone is kept.
    fn forward(tape: &Tape, input: &Tensor, computed: &Cell<(u32, u32)>) -> Result<Tensor> {
        let (sines, exps) = computed.get();
        let sine = tape.output(true, || {
            computed.set((sines + 1, exps));
            Ok(input.f_sin()?)
        })?;
        let (sines, exps) = computed.get();
        let exp = tape.output(false, || {
            computed.set((sines, exps + 1));
            Ok(sine.f_exp()?)
        })?;
        Ok(exp.f_mul(input)?)
    }

    #[test]
    fn what_is_given_up_comes_back_where_it_was() {
        let (input, computed) = (input(), Cell::default());
        let plain = with_grad(|| input.sin().exp() * &input);
        backward(&[&plain.sum(Kind::Float)], &[None], false).unwrap();
        let expected = take_grad(&input).unwrap().unwrap();

        let tape = Tape::new(Vec::new());
        let output = with_grad(|| forward(&tape, &input, &computed)).unwrap();
        tape.give_up(&[&input, &output]).unwrap();
        assert_eq!(tape.byte_lens(), (24, 24));
        assert_eq!(storage_byte_len(&tape.outputs.borrow()[1].tensor).unwrap(), 0);
        let _ = no_grad(|| forward(&tape, &input, &computed)).unwrap();
        assert_eq!(computed.get(), (1, 2));
        backward(&[&output.sum(Kind::Float)], &[None], false).unwrap();
        assert!(take_grad(&input).unwrap().unwrap().equal(&expected));
    }

    #[test]
    fn what_is_kept_may_not_share_memory_with_what_is_not() {
        let (input, tape) = (input(), Tape::new(Vec::new()));
        let cheap = tape.output(false, || Ok(input.f_sin()?)).unwrap();
        let _ = tape.output(true, || Ok(cheap.f_narrow(0, 2, 3)?)).unwrap();
        let error = tape.give_up(&[&input]).unwrap_err();
        assert!(error.to_string().contains("[3] that is kept shares its memory"), "{error}");
        let tape = Tape::new(Vec::new());
        let _ = tape.output(false, || Ok(input.detach())).unwrap();
        tape.give_up(&[&input]).unwrap_err();
    }

    #[test]
    fn a_second_pass_with_more_operations_is_an_error() {
        let (input, tape) = (input(), Tape::new(Vec::new()));
        let _ = tape.output(true, || Ok(input.f_sin()?)).unwrap();
        tape.give_up(&[&input]).unwrap();
        let _ = tape.output(true, || Ok(input.f_sin()?)).unwrap();
        let error = tape.output(true, || Ok(input.f_sin()?)).unwrap_err();
        assert_eq!(error.to_string(), "a unit has 1 operations, and then more");
    }

    #[test]
    fn an_output_without_elements_has_no_memory_to_give_up() {
        let tape = Tape::new(Vec::new());
        let empty = || Ok(Tensor::f_zeros([0, 4], (Kind::Float, Device::Cpu))?);
        let _ = tape.output(false, empty).unwrap();
        tape.give_up(&[]).unwrap();
        assert_eq!(tape.output(false, empty).unwrap().size(), [0, 4]);
    }
}
