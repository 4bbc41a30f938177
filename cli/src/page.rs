//! The page that `inspect --html` writes: one file with its style, script and data.

use crate::error::Result;
use crate::names::Component;
use dcp::format::Reader;
use dcp::model::Tensor;
use serde_json::json;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Tensors listed on a page; the largest are kept.
const TENSORS_MAX: usize = 20_000;
/// Boxes drawn of one tensor.
const BOXES_PER_TENSOR_MAX: usize = 4096;
/// Boxes of all tensors on a page.
const BOXES_MAX: usize = 200_000;
/// Chunks visited for the sums by writer.
const CHUNKS_MAX: u64 = 5_000_000;

static TEMPLATE: &str = include_str!("page/page.html");
/// Where the data goes in the template.
const DATA_MARK: &str = "@DATA@";

/// Renders the page.
///
/// Errors: what computing chunks gives.
pub(crate) fn render(reader: &dyn Reader) -> Result<String> {
    let catalog = reader.catalog();
    let mut order: Vec<usize> = (0..catalog.tensors.len()).collect();
    let mut notes = Vec::new();
    if order.len() > TENSORS_MAX {
        order.sort_by_key(|&index| std::cmp::Reverse(catalog.tensors[index].spec.bytes()));
        order.truncate(TENSORS_MAX);
        order.sort_unstable();
        notes.push(format!("The table has the {TENSORS_MAX} largest of {} tensors.", catalog.tensors.len()));
    }
    let (mut tensors, mut boxes_left, mut cut) = (Vec::new(), BOXES_MAX, 0usize);
    for index in order {
        let Some((fqn, tensor)) = catalog.tensors.get_index(index) else { continue };
        let limit = boxes_left.min(BOXES_PER_TENSOR_MAX);
        let boxes = boxes(tensor, limit)?;
        boxes_left -= boxes.len();
        cut += usize::from((boxes.len() as u64) < tensor.chunks.count() && boxes.len() == limit);
        let component = Component::of(fqn.as_str(), &tensor.path).name();
        tensors.push(json!([
            fqn.as_str(),
            tensor.spec.dtype.name(),
            tensor.spec.shape,
            tensor.spec.bytes(),
            component,
            tensor.chunks.count(),
            boxes
        ]));
    }
    if cut > 0 {
        notes.push(format!("Of {cut} tensors with very many chunks only the first are drawn."));
    }
    let chunks: u64 = catalog.tensors.values().fold(0, |sum, t| sum.saturating_add(t.chunks.count()));
    let writers = if chunks <= CHUNKS_MAX {
        by_writer(reader)?
    } else {
        notes.push(format!("Bytes by writer are left out: {chunks} chunks are over {CHUNKS_MAX}."));
        Vec::new()
    };
    let mesh = catalog.mesh.as_ref().map(|mesh| {
        let axes = mesh.axes().iter().map(|axis| format!("{} {}", axis.name, axis.size));
        axes.collect::<Vec<_>>().join(" x ")
    });
    let objects: Vec<_> =
        catalog.objects.iter().map(|object| json!([object.key.as_str(), object.writer])).collect();
    let data = json!({
        "checkpoint": reader.place().display(), "format": catalog.format, "step": catalog.step, "mesh": mesh,
        "bytes": catalog.tensor_bytes(), "count": catalog.tensors.len(), "values": catalog.values.len(),
        "chunks": chunks, "findings": catalog.findings.iter().map(|f| &f.message).collect::<Vec<_>>(),
        "components": Component::ALL.map(Component::name), "by_component": by_component(reader),
        "writers": writers, "objects": objects, "tensors": tensors, "notes": notes,
    });
    // In a script element only `<` can end the text; JSON has an escape for it.
    Ok(TEMPLATE.replacen(DATA_MARK, &data.to_string().replace('<', "\\u003c"), 1))
}

/// Bytes of each component, in the order of [`Component::ALL`].
fn by_component(reader: &dyn Reader) -> [u64; 3] {
    let mut sums = [0u64; 3];
    for (fqn, tensor) in &reader.catalog().tensors {
        let sum = &mut sums[Component::of(fqn.as_str(), &tensor.path) as usize];
        *sum = sum.saturating_add(tensor.spec.bytes().unwrap_or(0));
    }
    sums
}

/// The first boxes of a tensor: object, corner, size.
fn boxes(tensor: &Tensor, limit: usize) -> Result<Vec<serde_json::Value>> {
    let mut boxes = Vec::new();
    visit(tensor, &mut |chunk| {
        if boxes.len() == limit {
            return ControlFlow::Break(());
        }
        boxes.push(json!([chunk.object, chunk.region.start, chunk.region.extent]));
        ControlFlow::Continue(())
    })?;
    Ok(boxes)
}

/// Bytes by component of each writer, and the writer's name: its rank, or its object where the rank is not known.
fn by_writer(reader: &dyn Reader) -> Result<Vec<serde_json::Value>> {
    let catalog = reader.catalog();
    let mut sums: BTreeMap<(bool, u32), [u64; 3]> = BTreeMap::new();
    for (fqn, tensor) in &catalog.tensors {
        let component = Component::of(fqn.as_str(), &tensor.path) as usize;
        visit(tensor, &mut |chunk| {
            let writer = catalog.objects[chunk.object as usize].writer;
            let sums = sums.entry((writer.is_none(), writer.unwrap_or(chunk.object))).or_default();
            let bytes = tensor.spec.dtype.bytes(chunk.region.elements()).unwrap_or(chunk.byte_len);
            sums[component] = sums[component].saturating_add(bytes);
            ControlFlow::Continue(())
        })?;
    }
    let name = |(unknown, number): (bool, u32)| match unknown {
        true => catalog.objects[number as usize].key.to_string(),
        false => format!("rank {number}"),
    };
    Ok(sums.into_iter().map(|(writer, sums)| json!([name(writer), sums])).collect())
}

/// Calls `see` with each chunk that has elements until it breaks; chunks after that are skipped.
fn visit(tensor: &Tensor, see: &mut dyn FnMut(dcp::model::Chunk) -> ControlFlow<()>) -> Result<()> {
    let mut flow = ControlFlow::Continue(());
    tensor.chunks.visit(&dcp::layout::Region::whole(&tensor.spec.shape), &mut |chunk| {
        if flow.is_continue() {
            flow = see(chunk);
        }
        Ok(())
    })?;
    Ok(())
}
