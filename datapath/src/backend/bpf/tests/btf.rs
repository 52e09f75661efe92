//! The structs of an object, as its BTF has them. (kernel, Documentation/bpf/btf.rst)

use std::collections::BTreeMap;

/// Kinds by their number; those that are not named here have no bytes of their own behind the head.
const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const ENUM64: u32 = 19;

/// A struct: its size, and of each field name, offset and size, in bytes.
pub(super) type Struct = (usize, Vec<(String, usize, usize)>);

/// How the names of our types begin; the kernel's own have pointers and bits in them.
const OURS: &str = "mesh_";

/// One type: its head, and the words behind it.
struct Type {
    name: u32,
    kind: u32,
    /// A size, or another type's number, as the kind wants.
    size_or_type: u32,
    words: Vec<u32>,
}

/// Our structs in an ELF object, by name. It is our own compiler's, so what cannot be read is a bug of this reader.
pub(super) fn types(object: &[u8]) -> BTreeMap<String, Struct> {
    let object = aya_obj::Object::parse(object).expect("an object");
    let bytes = object.btf.expect("it is compiled with -g").to_bytes();
    let word = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("a word"));
    // Magic, version and flags in a word, then where the two sections begin behind the head, and how long they are.
    let head = word(4) as usize;
    let (types_at, types_end) = (head + word(8) as usize, head + word(8) as usize + word(12) as usize);
    let names_at = head + word(16) as usize;
    let name = |offset: u32| {
        let text = bytes[names_at + offset as usize..].split(|byte| *byte == 0).next().expect("a text");
        String::from_utf8_lossy(text).into_owned()
    };

    // Types are numbered from 1; 0 is void.
    let mut all = vec![Type { name: 0, kind: 0, size_or_type: 0, words: Vec::new() }];
    let mut at = types_at;
    while at < types_end {
        let (info, count) = (word(at + 4), (word(at + 4) & 0xffff) as usize);
        let kind = info >> 24 & 0x1f;
        let behind = match kind {
            INT | VAR | DECL_TAG => 1,
            ARRAY => 3,
            STRUCT | UNION | DATASEC | ENUM64 => 3 * count,
            ENUM | FUNC_PROTO => 2 * count,
            _ => 0,
        };
        let words = (0..behind).map(|n| word(at + 12 + 4 * n)).collect();
        all.push(Type { name: word(at), kind, size_or_type: word(at + 8), words });
        at += 12 + 4 * behind;
    }

    let structs = all.iter().filter(|of| of.kind == STRUCT && name(of.name).starts_with(OURS));
    structs
        .map(|of| {
            let field = |field: &[u32]| {
                assert_eq!(field[2] % 8, 0, "no struct of ours has fields of bits");
                (name(field[0]), field[2] as usize / 8, size(&all, field[1]))
            };
            (name(of.name), (of.size_or_type as usize, of.words.chunks(3).map(field).collect()))
        })
        .collect()
}

/// The size of a type, through its names and qualifiers.
fn size(all: &[Type], number: u32) -> usize {
    let of = &all[number as usize];
    match of.kind {
        INT | STRUCT | UNION | ENUM | ENUM64 => of.size_or_type as usize,
        TYPEDEF | CONST | VOLATILE | RESTRICT => size(all, of.size_or_type),
        // The element's type, the index's type, how many.
        ARRAY => size(all, of.words[0]) * of.words[2] as usize,
        other => panic!("a field of kind {other} has no place in a map"),
    }
}
