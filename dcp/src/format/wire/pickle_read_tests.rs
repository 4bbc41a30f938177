use super::super::pickle_nodes::View;
use super::*;
use std::fmt::Write;

/// Prints a graph, repeated nodes and all, to a depth at which cycles stop.
fn show(pickle: &Pickle<'_>, id: NodeId, depth: usize) -> String {
    if depth == 0 {
        return "...".to_owned();
    }
    let list = |items: &[NodeId]| {
        items.iter().map(|&item| show(pickle, item, depth - 1)).collect::<Vec<_>>().join(", ")
    };
    let dict = |pairs: &[[NodeId; 2]]| {
        let pair = |&[key, value]: &[NodeId; 2]| {
            format!("{}: {}", show(pickle, key, depth - 1), show(pickle, value, depth - 1))
        };
        pairs.iter().map(pair).collect::<Vec<_>>().join(", ")
    };
    match pickle.view(id) {
        View::Int(int) => int.to_string(),
        View::Str(text) => format!("{text:?}"),
        View::Tuple(items) => format!("({})", list(items)),
        View::List(items) => format!("[{}]", list(items)),
        View::Set(items) => format!("set({})", list(items)),
        View::FrozenSet(items) => format!("frozenset({})", list(items)),
        View::Dict(pairs) => format!("{{{}}}", dict(pairs)),
        View::Global { module, name } => format!("{module}.{name}"),
        View::Persistent(id) => format!("<{}>", show(pickle, id, depth - 1)),
        View::Object(object) => {
            let mut text = show(pickle, object.callee, depth - 1);
            text += if object.is_new { "@" } else { "" };
            text += &show(pickle, object.args, depth - 1);
            if let Some(state) = object.state {
                write!(text, " state {}", show(pickle, state, depth - 1)).unwrap();
            }
            if !object.items.is_empty() {
                write!(text, " items {}", list(object.items)).unwrap();
            }
            if !object.pairs.is_empty() {
                write!(text, " pairs {}", dict(object.pairs)).unwrap();
            }
            text
        }
        other => format!("{other:?}"),
    }
}

#[track_caller]
fn check(bytes: &[u8], expected: &str) {
    let pickle = parse(bytes).unwrap_or_else(|error| panic!("{}: {error}", bytes.escape_ascii()));
    assert_eq!(show(&pickle, pickle.root(), 5), expected, "{}", bytes.escape_ascii());
}

#[test]
fn opcodes_of_every_protocol() {
    let cases: &[(&[u8], &str)] = &[
        (b"N.", "None"),
        (b"I01\n.", "Bool(true)"),
        (b"I-5\n.", "-5"),
        (b"L123L\n.", "123"),
        (b"L18446744073709551616L\n.", "BigInt([0, 0, 0, 0, 0, 0, 0, 0, 1])"),
        (b"F1.5\n.", "Float(1.5)"),
        (b"S'it\\'s'\n.", "\"it's\""),
        (b"S'\\xff'\n.", "Bytes([255])"),
        (b"Va\\u20ac\n.", "\"a\u{20ac}\""),
        (b"T\x02\0\0\0hi.", "\"hi\""),
        (b"U\x01\xff.", "Bytes([255])"),
        (b"(I1\nI2\nl.", "[1, 2]"),
        (b"(I1\nI2\nd.", "{1: 2}"),
        (b"(I1\nI2\nt.", "(1, 2)"),
        (b"(lp0\nI7\nag0\n0.", "[7]"),
        (b"N2\x86.", "(None, None)"),
        (b"N(0.", "None"),
        (b"(I1\n1N.", "None"),
        (b"cposix\nsystem\n(S'ls'\ntR.", "posix.system(\"ls\")"),
        (b"c__builtin__\nset\n(]K\x01atR.", "builtins.set([1])"),
        (b"\x80\x02K\x05.", "5"),
        (b"\x80\x02M\x00\x01J\xff\xff\xff\xff\x86.", "(256, -1)"),
        (b"\x80\x02\x8a\x00\x8a\x05\x00\x00\x00\x80\x00\x86.", "(0, 2147483648)"),
        (b"\x80\x02\x8a\x01\xff.", "-1"),
        (b"\x80\x02\x8b\x01\0\0\0\x07.", "7"),
        (b"\x80\x02G\x3f\xf8\0\0\0\0\0\0.", "Float(1.5)"),
        (b"\x80\x02\x88\x89N\x87.", "(Bool(true), Bool(false), None)"),
        (b"\x80\x02]q\0(K\x01K\x02e.", "[1, 2]"),
        (b"\x80\x02}q\0(X\x01\0\0\0aK\x01u.", "{\"a\": 1}"),
        (b"\x80\x02}X\x01\0\0\0aK\x01s.", "{\"a\": 1}"),
        (b"\x80\x02(X\x07\0\0\0storageK\x01tQ.", "<(\"storage\", 1)>"),
        (b"\x80\x02cm\nC\n)\x81}X\x01\0\0\0aK\x01sb.", "m.C@() state {\"a\": 1}"),
        (b"\x80\x02cm\nC\n)Rq\0K\x01aK\x02K\x03s}b.", "m.C() state {} items 1 pairs 2: 3"),
        (b"\x80\x03C\x02\0\xff.", "Bytes([0, 255])"),
        (b"\x80\x03B\x01\0\0\0a.", "Bytes([97])"),
        (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c\x01m\x94\x8c\x01C\x94\x93\x94)\x81.", "m.C@()"),
        (b"\x80\x04\x8f(K\x01K\x02\x90.", "set(1, 2)"),
        (b"\x80\x04(K\x01\x91.", "frozenset(1)"),
        (b"\x80\x04\x8d\x01\0\0\0\0\0\0\0a.", "\"a\""),
        (b"\x80\x04\x8e\x01\0\0\0\0\0\0\0a.", "Bytes([97])"),
        (b"\x80\x04\x8c\x01m\x8c\x01C\x93)}\x92.", "copyreg.__newobj_ex__(m.C, (), {})"),
        (b"\x80\x05\x96\x01\0\0\0\0\0\0\0a.", "ByteArray([97])"),
    ];
    for (bytes, expected) in cases {
        check(bytes, expected);
    }
}

#[test]
fn containers_are_shared_before_and_after_they_are_filled() {
    // [x, x] where x is filled after its second mention.
    check(b"\x80\x02]q\0(]q\x01h\x01K\x07ae.", "[[7], [7]]");
    // The same for a dict in a tuple: the tuple is made first.
    check(b"\x80\x02}q\0h\0\x86q\x01h\0K\x01K\x02s0.", "({1: 2}, {1: 2})");
    // Two empty lists are two lists.
    check(b"\x80\x02]]K\x07a\x86.", "([], [7])");
    // An object is seen with its state and items by what referred to it before.
    check(
        b"\x80\x02cm\nC\n)\x81q\0h\0\x86q\x01h\0K\x05bK\x01K\x02s0.",
        "(m.C@() state 5 pairs 1: 2, m.C@() state 5 pairs 1: 2)",
    );
    // A later state replaces an earlier one.
    check(b"\x80\x02cm\nC\n)\x81K\x01bK\x02b.", "m.C@() state 2");
}

#[test]
fn strings_integers_and_globals_exist_once() {
    let bytes = b"\x80\x02(X\x01\0\0\0aX\x01\0\0\0aK\x07K\x07ctorch\nSize\nctorch\nSize\nt.";
    let pickle = parse(bytes).unwrap();
    let items = pickle.tuple(pickle.root()).unwrap();
    assert_eq!((items[0], items[2], items[4]), (items[1], items[3], items[5]));
}

#[test]
fn several_pickles_follow_each_other() {
    let bytes = b"\x80\x02K\x01.\x80\x02K\x02.rest";
    let (first, used) = parse_prefix(bytes).unwrap();
    assert_eq!((first.int(first.root()), used), (Some(1), 5));
    let (second, used) = parse_prefix(&bytes[used..]).unwrap();
    assert_eq!((second.int(second.root()), used), (Some(2), 5));
    assert!(parse(bytes).unwrap_err().why.contains("9 bytes follow"));
}

#[test]
fn shapes_are_sizes_tuples_or_lists_of_what_is_not_negative() {
    let cases: &[(&[u8], Option<&[u64]>)] = &[
        (b"\x80\x02ctorch\nSize\nK\x02K\x03\x86\x85R.", Some(&[2, 3])),
        (b"\x80\x02ctorch\nSize\n)\x85R.", Some(&[])),
        (b"\x80\x02K\x02K\x03\x86.", Some(&[2, 3])),
        (b"\x80\x02]K\x02a.", Some(&[2])),
        (b"\x80\x02J\xff\xff\xff\xff\x85.", None),
        (b"\x80\x02ctorch\nDate\n)\x85R.", None),
        (b"\x80\x02ctorch\nSize\n)R.", None),
        (b"\x80\x02\x88\x85.", None),
    ];
    for (bytes, expected) in cases {
        let pickle = parse(bytes).unwrap();
        assert_eq!(pickle.shape(pickle.root()).as_deref(), *expected, "{}", bytes.escape_ascii());
    }
}

mod attacks {
    use super::*;

    #[track_caller]
    fn refused(bytes: &[u8], message: &str) {
        match parse(bytes) {
            Ok(pickle) => panic!("{} was read as {pickle:?}", bytes.escape_ascii()),
            Err(error) => assert!(error.to_string().contains(message), "{}: {error}", bytes.escape_ascii()),
        }
    }

    #[test]
    fn every_truncation_is_an_error_that_says_so() {
        let whole = b"\x80\x04\x95\x02\0\0\0\0\0\0\0](\x8c\x01aK\x01M\x01\0J\0\0\0\0\x8a\x02\0\0G\0\0\0\0\0\0\0\0C\x01aX\x01\0\0\0acm\nC\ne.";
        assert!(parse(whole).is_ok());
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).unwrap_err().truncated, "cut at {end}");
        }
    }

    #[test]
    fn lengths_beyond_the_input() {
        let cases: &[&[u8]] = &[
            b"\x8b\xff\xff\xff\x7f.",
            b"T\xff\xff\xff\x7f.",
            b"X\xff\xff\xff\xff.",
            b"B\xff\xff\xff\xff.",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
            b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
            b"\x96\0\0\0\0\0\0\0\x80.",
            b"\x95\xff\xff\xff\xff\xff\xff\xff\xffN.",
        ];
        for bytes in cases {
            refused(bytes, "bytes are wanted, but only");
        }
    }

    #[test]
    fn negative_lengths() {
        refused(b"\x8b\xff\xff\xff\xff.", "a length is -1");
        refused(b"T\0\0\0\x80.", "a length is -2147483648");
    }

    #[test]
    fn integers_that_take_quadratic_time_to_print() {
        let mut bytes = b"\x8b\0\0\x01\0".to_vec();
        bytes.resize(5 + 65536, 1);
        bytes.push(STOP);
        refused(&bytes, "an integer has 65536 bytes");
        let digits = format!("L{}L\n.", "9".repeat(5000));
        refused(digits.as_bytes(), "5000 digits");
    }

    #[test]
    fn memo_numbers_far_apart_cost_one_entry_each() {
        let mut bytes = b"N".to_vec();
        for number in (0..64).map(|bit| u32::MAX - bit * 1000) {
            bytes.push(LONG_BINPUT);
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(b"0j\xff\xff\xff\xff.");
        check(&bytes, "None");
        refused(b"Nr\xff\xff\xff\xffh\x00.", "object 0 was not remembered");
        refused(b"Np-1\n.", "not an object number");
    }

    #[test]
    fn the_stack_does_not_underflow() {
        for bytes in [
            b".".as_slice(),
            b"0.",
            b"2.",
            b"q\0.",
            b"R.",
            b"NR.",
            b"b.",
            b"\x93.",
            b"Q.",
            b"(2.",
            b"N(R.",
            b"N(.",
            b"\x94.",
        ] {
            refused(bytes, "the stack is empty");
        }
        for bytes in [b"\x85.".as_slice(), b"N\x86.", b"NN\x87.", b"N(\x85.", b"N(N\x86."] {
            refused(bytes, "too few objects for a tuple");
        }
        for bytes in
            [b"a.".as_slice(), b"Na.", b"]a.", b"](a.", b"](Na.", b"Ns.", b"(u.", b"}(NNs.", b"](Ne\x90."]
        {
            let error = parse(bytes).unwrap_err().to_string();
            assert!(error.contains("container to fill") || error.contains("needs a mark"), "{error}");
        }
        for bytes in [b"t.".as_slice(), b"1.", b"]e.", b"l.", b"d.", b"\x91."] {
            refused(bytes, "needs a mark");
        }
    }

    #[test]
    fn objects_left_over() {
        refused(b"NN.", "more than one object");
        refused(b"(N.", "more than one object");
        refused(b"N.N", "1 bytes follow");
    }

    #[test]
    fn containers_of_the_wrong_kind() {
        for bytes in
            [b"]NNs.".as_slice(), b"}Na.", b")Na.", b"N(Ne.", b"\x8f(NNu.", b"](N\x90.", b"X\0\0\0\0NNs."]
        {
            refused(bytes, "not a container of the right kind");
        }
        refused(b"}(Nu.", "a key without a value");
        refused(b"(Nd.", "a key without a value");
        for bytes in [b"]Nb.".as_slice(), b"NNb.", b"cm\nC\nNb.", b"NQNb."] {
            refused(bytes, "not an object");
        }
        refused(b"NN\x93.", "not a string");
    }

    #[test]
    fn opcodes_that_reach_outside_the_file() {
        for opcode in [b'i', b'o', 0x82, 0x83, 0x84, 0x97, 0x98, 0xff, 0] {
            refused(&[opcode, b'm', b'\n', b'C', b'\n', b'.'], "unknown or not admitted");
        }
        refused(b"\x80\x06N.", "the protocol is 6");
    }

    #[test]
    fn a_list_that_holds_itself_is_a_graph_and_not_a_loop() {
        check(b"\x80\x02]q\0h\0a.", "[[[[[...]]]]]");
        check(
            b"\x80\x02cm\nC\n)Rq\0h\0b.",
            "m.C() state m.C() state m.C() state m.C() state ...... state ...",
        );
    }

    #[test]
    fn deep_nesting_takes_no_recursion() {
        let mut bytes = vec![b']'; 100_000];
        bytes.extend(vec![b'a'; 99_999]);
        bytes.push(STOP);
        assert!(parse(&bytes).is_ok());
        let mut bytes = b"cm\nC\n".to_vec();
        (0..100_000).for_each(|_| bytes.extend(b")R"));
        bytes.push(STOP);
        assert!(parse(&bytes).is_ok());
        let mut bytes = b"cm\nC\n)R".to_vec();
        (0..100_000).for_each(|_| bytes.extend(b"NbNaNNs"));
        bytes.push(STOP);
        let pickle = parse(&bytes).unwrap();
        let object = pickle.object(pickle.root()).unwrap();
        assert_eq!((object.items.len(), object.pairs.len()), (100_000, 100_000));
    }

    #[test]
    fn text_that_is_not_text() {
        refused(b"X\x03\0\0\0\xed\xa0\x80.", "not UTF-8");
        refused(b"c\xff\nC\n.", "not UTF-8");
        refused(b"P\xff\n.", "not UTF-8");
        refused(b"S'a\n.", "lacks its quotes");
        refused(b"V\\ud83d\n.", "lone surrogate");
        refused(b"F1.5x\n.", "not a float");
        refused(b"Iabc\n.", "not an integer");
    }
}
