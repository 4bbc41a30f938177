//! Who writes which box of every tensor: what both the writer and the reader compute everything else from.

use super::placement::AxisRule;
use crate::layout::{Layout, Mesh, Placement, Region};
use crate::model::{Fqn, Path, TensorSpec};
use std::collections::HashMap;
use std::sync::Arc;

/// Most dims of a tensor, as in PyTorch.
pub(crate) const DIMS_MAX: usize = 64;
/// Longest name of a tensor, in bytes of UTF-8.
pub(crate) const FQN_BYTES_MAX: usize = 65_536;
/// Most writers, and most ranks of a mesh.
pub(crate) const WRITERS_MAX: u32 = 1 << 20;
/// Name of the one axis of the grid that stands in where the checkpoint has no usable mesh.
const WRITER_AXIS: &str = "writer";

/// A set of placements that many tensors share, one rule per axis of the grid.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Class {
    /// One rule per axis.
    pub(crate) rules: Vec<AxisRule>,
    /// Whether the rules were found from listed boxes, and so tell nothing about how the tensors were placed.
    pub(crate) inferred: bool,
}

impl Class {
    /// The placements, without owners.
    pub(crate) fn placements(&self) -> Vec<Placement> {
        self.rules.iter().map(|rule| rule.placement).collect()
    }

    /// Coordinates of the copy that is written, one per axis; 0 on axes that do not replicate.
    pub(crate) fn owner(&self) -> Vec<u32> {
        self.rules.iter().map(|rule| rule.owner).collect()
    }

    /// Whether the rank at these coordinates writes a box of the class's tensors.
    fn writes(&self, coordinates: &[u32]) -> bool {
        self.rules.iter().zip(coordinates).all(|(rule, own)| rule.fixed().is_none_or(|fixed| fixed == *own))
    }
}

/// One tensor.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) fqn: Fqn,
    pub(crate) spec: TensorSpec,
    /// Empty where it is the single key that the FQN spells.
    pub(crate) path: Path,
    pub(crate) boxes: Boxes,
}

/// The boxes of one tensor.
#[derive(Clone, Debug)]
pub(crate) enum Boxes {
    /// Computed from a class of placements.
    Placed { class: u32, layout: Layout },
    /// Listed with their writers.
    Listed(Vec<(u32, Region)>),
}

/// What is wrong with a row.
#[derive(Debug)]
pub(crate) struct BadRow {
    pub(crate) fqn: Fqn,
    pub(crate) why: String,
}

impl BadRow {
    pub(crate) fn new(fqn: &Fqn, why: impl Into<String>) -> Self {
        BadRow { fqn: fqn.clone(), why: why.into() }
    }
}

/// One box that one writer stores.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// Position of the tensor in the table.
    pub(crate) tensor: u32,
    /// Position among this writer's boxes of the same tensor.
    pub(crate) ordinal: u32,
    /// The box.
    pub(crate) region: Region,
    /// Bytes of its elements.
    pub(crate) byte_len: u64,
}

/// All tensors, with an index by writer.
#[derive(Debug)]
pub(crate) struct Table {
    grid: Arc<Mesh>,
    object_bytes_max: u64,
    classes: Vec<Class>,
    rows: Vec<Row>,
    /// For each class, its tensors in order.
    members: Vec<Vec<u32>>,
    /// For each writer of listed boxes: (tensor, position in its list), in order.
    listed: HashMap<u32, Vec<(u32, u32)>>,
}

/// The grid that classes refer to: the mesh where every rank of it is a writer, else one axis over all writers.
pub(crate) fn grid(mesh: Option<&Arc<Mesh>>, writers: u32) -> Arc<Mesh> {
    match mesh {
        Some(mesh) if mesh.ranks() <= writers => mesh.clone(),
        _ => Arc::new(Mesh::new([(WRITER_AXIS, writers.max(1))]).expect("one axis of at least one rank")),
    }
}

impl Table {
    /// Checks every row and indexes them. `object_bytes_max` is the most bytes of tensor data in one object that
    /// holds more than one box.
    ///
    /// Rows that are [`Boxes::Placed`] name an existing class, and classes have one rule per axis of `grid`.
    pub(crate) fn new(
        grid: Arc<Mesh>,
        writers: u32,
        object_bytes_max: u64,
        classes: Vec<Class>,
        rows: Vec<Row>,
    ) -> Result<Self, BadRow> {
        let mut members = vec![Vec::new(); classes.len()];
        let mut listed: HashMap<u32, Vec<(u32, u32)>> = HashMap::new();
        for (tensor, row) in rows.iter().enumerate() {
            check_spec(row)?;
            match &row.boxes {
                Boxes::Placed { class, .. } => members[*class as usize].push(tensor as u32),
                Boxes::Listed(boxes) => {
                    check_boxes(row, boxes, writers)?;
                    for (position, (writer, _)) in boxes.iter().enumerate() {
                        listed.entry(*writer).or_default().push((tensor as u32, position as u32));
                    }
                }
            }
        }
        Ok(Table { grid, object_bytes_max, classes, rows, members, listed })
    }

    /// The grid that classes refer to.
    pub(crate) fn grid(&self) -> &Arc<Mesh> {
        &self.grid
    }

    /// The classes.
    pub(crate) fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// The tensors, in stored order.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Most bytes of tensor data in one object that holds more than one box.
    pub(crate) fn object_bytes_max(&self) -> u64 {
        self.object_bytes_max
    }

    /// The listed boxes of one tensor that one writer stores: (tensor, position in the tensor's list), ascending. A
    /// box's position in the result is its ordinal.
    pub(crate) fn listed_of(&self, writer: u32, tensor: u32) -> &[(u32, u32)] {
        let all = self.listed.get(&writer).map_or(&[][..], |all| all);
        let from = all.partition_point(|&(other, _)| other < tensor);
        let until = all.partition_point(|&(other, _)| other <= tensor);
        &all[from..until]
    }

    /// The writer that keeps the one box of a placed tensor without elements, so that its shards show it; `None` for
    /// tensors with elements.
    pub(crate) fn keeper(&self, layout: &Layout, class: u32) -> Option<u32> {
        let empty = layout.shape().contains(&0);
        empty.then(|| layout.first_rank(&self.classes[class as usize].owner()))
    }

    /// The boxes that a writer stores, sorted by tensor and ordinal. Empty boxes are stored where they are listed.
    ///
    /// Errors: a box that does not fill whole blocks of a sub-byte type.
    pub(crate) fn pieces(&self, writer: u32) -> Result<Vec<Piece>, BadRow> {
        let mut held: Vec<(u32, u32)> = self.listed.get(&writer).cloned().unwrap_or_default();
        let mut coordinates = Vec::new();
        if writer < self.grid.ranks() {
            coordinates = self.grid.coordinates(writer);
            for (class, members) in self.classes.iter().zip(&self.members) {
                if class.writes(&coordinates) {
                    held.extend(members.iter().map(|&tensor| (tensor, 0)));
                }
            }
        }
        held.sort_unstable();
        let mut pieces: Vec<Piece> = Vec::with_capacity(held.len());
        for (tensor, position) in held {
            let row = &self.rows[tensor as usize];
            let region = match &row.boxes {
                Boxes::Placed { layout, class } => {
                    let region = layout.region_at(&coordinates);
                    match region.is_empty() {
                        false => region,
                        true if self.keeper(layout, *class) == Some(writer) => Region::whole(layout.shape()),
                        true => continue,
                    }
                }
                Boxes::Listed(boxes) => boxes[position as usize].1.clone(),
            };
            let byte_len = row.spec.dtype.bytes(region.elements()).ok_or_else(|| {
                BadRow::new(&row.fqn, format!("{region:?} does not fill whole blocks of {}", row.spec.dtype))
            })?;
            let ordinal = match pieces.last() {
                Some(last) if last.tensor == tensor => last.ordinal + 1,
                _ => 0,
            };
            pieces.push(Piece { tensor, ordinal, region, byte_len });
        }
        Ok(pieces)
    }
}

fn check_spec(row: &Row) -> Result<(), BadRow> {
    let Row { fqn, spec, .. } = row;
    if fqn.as_str().len() > FQN_BYTES_MAX {
        let why = format!("its name has {} bytes, over the limit of {FQN_BYTES_MAX}", fqn.as_str().len());
        return Err(BadRow::new(fqn, why));
    }
    if spec.shape.len() > DIMS_MAX {
        let why = format!("it has {} dims, over the limit of {DIMS_MAX}", spec.shape.len());
        return Err(BadRow::new(fqn, why));
    }
    // Half of the range, so that sums of a few sizes cannot overflow either.
    match spec.bytes() {
        Some(byte_len) if byte_len <= i64::MAX as u64 && spec.shape.iter().all(|&n| n <= i64::MAX as u64) => {
            Ok(())
        }
        _ => Err(BadRow::new(
            fqn,
            format!("{} of shape {:?} has no possible size in bytes", spec.dtype, spec.shape),
        )),
    }
}

fn check_boxes(row: &Row, boxes: &[(u32, Region)], writers: u32) -> Result<(), BadRow> {
    let shape = &row.spec.shape;
    for (writer, region) in boxes {
        let inside = region.rank() == shape.len()
            && (0..shape.len()).all(|dim| {
                region.start[dim].checked_add(region.extent[dim]).is_some_and(|end| end <= shape[dim])
            });
        if !inside {
            return Err(BadRow::new(&row.fqn, format!("{region:?} is not inside its shape {shape:?}")));
        }
        if *writer >= writers {
            return Err(BadRow::new(
                &row.fqn,
                format!("{region:?} is of writer {writer}, but there are {writers}"),
            ));
        }
    }
    Ok(())
}
