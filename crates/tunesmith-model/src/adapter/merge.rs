//! Merging: an adapter's change becomes part of the base's weights, and the adapter is gone.

use super::Module;
use crate::Transformer;
use std::collections::BTreeMap;
use tch::Tensor;

impl Transformer {
    /// Writes the newest adapter into the base, and forgets it. The sum is made in fp32 and rounded to the weight's
    /// dtype. Adapters before it stay, and stand on the changed base.
    ///
    /// A quantised base becomes the dense one that its codes stand for. Where head and embedding are one tensor and the
    /// adapter changes only one of them, the merged model has two.
    pub fn merge_adapter(&mut self) {
        let _no_grad = tch::no_grad_guard();
        let Some(number) = self.adapters().len().checked_sub(1) else { return };
        self.dequantise();
        self.untie(number);
        for module in self.modules_mut() {
            match module {
                Module::Projection(linear) | Module::Head(linear) => linear.merge(number),
                Module::Embedding(embedding) => embedding.merge(number),
                Module::Norm(norm) => {
                    norm.weight.merge(number);
                    norm.bias.iter_mut().for_each(|bias| bias.merge(number));
                }
            }
        }
        self.drop_adapter();
    }

    /// A₀ and B₀ of PiSSA under the names of A and B; true: it is an A.
    pub(super) fn initial_matrices(&self, number: usize) -> BTreeMap<String, (Tensor, bool)> {
        let mut initial = BTreeMap::new();
        for linear in self.linears() {
            let Some(lora) = linear.lora_of(number) else { continue };
            if let Some((a, b)) = &lora.initial {
                initial.insert(lora.a.name.clone(), (a.shallow_clone(), true));
                initial.insert(lora.b.name.clone(), (b.shallow_clone(), false));
            }
        }
        initial
    }
}
