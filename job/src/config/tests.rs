use super::*;
use crate::error::{Error, Place};
use proptest::prelude::*;
use std::fmt::Write;
use std::io;
use std::path::Path;

/// A configuration from flags and the text of `job.toml`.
fn parse(toml: &str, flags: &str) -> Result<Parsed, Error> {
    let args = std::iter::once("--job.config_file=job.toml").chain(flags.split_whitespace());
    Config::from_args(args, |path| {
        assert_eq!(path, Path::new("job.toml"));
        Ok(toml.to_owned())
    })
}

fn config(toml: &str, flags: &str) -> Config {
    parse(toml, flags).unwrap_or_else(|error| panic!("{error}")).config
}

/// Inputs with what is said of them; every one must be wrong.
fn messages(cases: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (toml, flags) in cases {
        let error = parse(toml, flags).unwrap_err();
        for line in toml.lines() {
            let _ = writeln!(text, "    {line}");
        }
        if !flags.is_empty() {
            let _ = writeln!(text, "    $ {flags}");
        }
        let _ = writeln!(text, "{error}\n");
    }
    text
}

/// The same for values that are each right, on so many ranks.
fn misfits(cases: &[(u32, &str)]) -> String {
    let mut text = String::new();
    for (world, flags) in cases {
        let error = config("", flags).validate(*world).unwrap_err();
        let _ = writeln!(text, "    $ {flags} on {world}\n{error}\n");
    }
    text
}

#[test]
fn wrong_files() {
    let told = messages(&[
        ("[training\nsteps = 1", ""),
        ("[training]\nsteps = 1\nsteps = 2", ""),
        ("[training]\nsteps =", ""),
        ("[trainng]\nsteps = 1", ""),
        ("[training.data_loader]\nnum_workers = 1", ""),
        ("[weights]\nsteps = 1", ""),
        ("steps = 10", ""),
        ("training = 3", ""),
        ("[training]\nsteps = { of = 10 }", ""),
        ("[training]\nstep = 10", ""),
        ("[training]\nlr = 1e-3", ""),
        ("[training]\nwarmup-steps = 5", ""),
        ("[model]\ncheese = true", ""),
        ("[training]\nsteps = \"10\"", ""),
        ("[training]\nsteps = -10", ""),
        ("[training]\nsteps = 10.0", ""),
        ("[training]\nsteps = 99999999999999999999", ""),
        ("[training]\nsteps = 2026-11-25", ""),
        ("[optimizer]\nlr = \"fast\"", ""),
        ("[optimizer]\nlr = inf", ""),
        ("[checkpoint]\nenable = 1", ""),
        ("[checkpoint]\nasync_mode = \"sync\"", ""),
        ("[checkpoint]\nexclude_from_loading = \"optimizer\"", ""),
        ("[checkpoint]\nexclude_from_loading = [1, 2]", ""),
        ("[activation_checkpoint]\nselective_ac_option = 2", ""),
        ("[activation_checkpoint]\nselective_ac_option = \"ops\"", ""),
        ("[parallelism]\nmodule_fqns_per_model_part = [\"a\", \"b\"]", ""),
        ("[parallelism]\ncontext_parallel_load_balancer = \"\"", ""),
        ("[parallelism]\npipeline_parallel_schedule = \"2F2B\"", ""),
        ("[debug]\nseed = -1", ""),
        ("[quantize.linear]\nfloat8 = true", ""),
        ("[job]\n# \u{e9}\n\u{22}d\u{e9}scription\u{22} = 'x'", ""),
        (
            "[traning]\nsteps = 1\n\n[training]\nstep = 2\nseq_len = \"long\"\n\n[compile]\nenable = true",
            "--optimizer.rate 3 --checkpoint.enable=True",
        ),
    ]);
    insta::assert_snapshot!(told);
}

#[test]
fn wrong_flags() {
    let told = messages(&[
        ("", "--checkpoint.enable=True"),
        ("", "--checkpoint.enable True"),
        ("", "--checkpoint.enable=false"),
        ("", "--checkpoint.no-enable=false"),
        ("", "--checkpoint.enable=maybe"),
        ("", "--no-checkpoint.enable"),
        ("", "--training.no-steps"),
        ("", "--training.steps"),
        ("", "--training.steps --checkpoint.enable"),
        ("", "--training.steps ten"),
        ("", "--training.steps 1e3"),
        ("", "--training.stps 10"),
        ("", "--training.lr=1e-3"),
        ("", "--steps 10"),
        ("", "--training"),
        ("", "training.steps=10"),
        ("", "-x"),
        ("", "--"),
        ("", "--checkpoint.async_mode sync"),
        ("", "--optimizer.name SGD"),
        ("", "--training.mixed_precision_reduce bfloat16"),
        ("", "--training.local_batch_size None"),
        ("", "--parallelism.module_fqns_per_model_part a,b"),
        ("", "--quantize.linear.float8.recipe_name rowise"),
    ]);
    insta::assert_snapshot!(told);
}

#[test]
fn what_cannot_be_had() {
    let told = messages(&[
        ("[job]\ncustom_config_module = \"mine.config\"", ""),
        ("[experimental]\ncustom_args_module = \"mine.config\"", ""),
        ("", "--experimental.custom_import mine"),
        ("[metrics]\nenable_wandb = true", ""),
        ("[compile]\nenable = true\ncomponents = [\"loss\"]", ""),
        ("", "--model.converters quantize.linear.float8"),
        ("", "--fault-tolerance.enable"),
        ("", "--parallelism.enable_async_tensor_parallel"),
        ("", "--parallelism.context_parallel_load_balancer ptrr"),
        ("", "--parallelism.expert_parallel_comm_backend deepep"),
        ("", "--activation_checkpoint.mode memory_budget"),
        ("", "--activation_checkpoint.debug"),
        ("", "--activation_checkpoint.determinism_check none"),
        ("", "--memory_estimation.enable"),
        ("", "--comm.mode fake_backend"),
        ("", "--comm.mode local_tensor"),
        ("", "--profiling.enable_memory_snapshot"),
        ("", "--optimizer.early_step_in_backward"),
        ("", "--training.enable_cpu_offload"),
        ("", "--model.name flux"),
        ("[model]\nhf_assets_path = \"a\"\ntokenizer_path = \"b\"", ""),
    ]);
    insta::assert_snapshot!(told);
}

#[test]
fn what_does_not_fit_together() {
    let told = misfits(&[
        (8, "--parallelism.tensor_parallel_degree 3"),
        (8, "--parallelism.data_parallel_shard_degree 4"),
        (8, "--parallelism.data_parallel_shard_degree 0"),
        (8, "--parallelism.tensor_parallel_degree 2 --parallelism.expert_tensor_parallel_degree 4"),
        (8, "--model.name deepseek_v3 --parallelism.expert_parallel_degree 3"),
        (8, "--model.name deepseek_v3 --parallelism.expert_parallel_degree 16"),
        (8, "--parallelism.expert_parallel_degree 2"),
        (32, "--parallelism.tensor_parallel_degree 32"),
        (8, "--parallelism.pipeline_parallel_degree 8"),
        (8, "--model.flavor 8B --parallelism.tensor_parallel_degree 8 --training.seq_len 1000"),
        (4, "--parallelism.context_parallel_degree 4 --validation.enable --validation.seq_len 100"),
        (2, "--training.global_batch_size 12"),
        (2, "--training.global_batch_size 0"),
        (2, "--parallelism.pipeline_parallel_degree 2 --parallelism.pipeline_parallel_microbatch_size 3"),
        (
            2,
            "--parallelism.pipeline_parallel_degree 2 --parallelism.pipeline_parallel_schedule pipelineschedulemulti",
        ),
        (
            4,
            "--model.name deepseek_v3 --parallelism.pipeline_parallel_degree 2 --parallelism.expert_parallel_degree 2 \
             --parallelism.pipeline_parallel_schedule DualPipeV",
        ),
        (1, "--parallelism.module_fqns_per_model_part=[['norm','output']]"),
        (1, "--model.name lama3"),
        (1, "--model.name gpt"),
        (1, "--model.flavor 8b"),
        (1, "--training.steps 0 --checkpoint.interval 0 --optimizer.beta1 1 --lr_scheduler.decay_ratio 1.5"),
        (
            1,
            "--training.max_norm 0 --optimizer.weight_decay -0.1 --validation.steps 0 --checkpoint.load_step -2",
        ),
        (1, "--checkpoint.keep_latest_k 1"),
        (1, "--checkpoint.folder= --checkpoint.initial_load_path="),
        (1, "--checkpoint.initial_load_in_hf --checkpoint.no-initial_load_model_only"),
        (1, "--checkpoint.initial_load_in_hf_quantized"),
        (1, "--checkpoint.last_save_in_hf --checkpoint.no-last_save_model_only"),
        (1, "--checkpoint.exclude_from_loading data_loader,model,lr"),
        (1, "--checkpoint.export_hf_interval 100"),
        (
            2,
            "--checkpoint.create_seed_checkpoint --checkpoint.load_only --parallelism.tensor_parallel_degree 2",
        ),
        (1, "--profiling.enable_profiling --profiling.profile_freq 3"),
        (1, "--model.hf_assets_path original/tokenizer.model"),
        (1, "--debug.deterministic_warn_only"),
    ]);
    insta::assert_snapshot!(told);
}

#[test]
fn flags_go_before_the_file_and_that_before_defaults() {
    let parsed =
        parse("[training]\nsteps = 5\nseq_len = 512\n", "--training.steps 7 --training.steps=9").unwrap();
    let Config { training, .. } = &parsed.config;
    assert_eq!((training.steps, training.seq_len, training.local_batch_size), (9, 512, 8));
    assert_eq!(parsed.origin("training.steps"), Origin::Flag);
    let file = Origin::File { path: "job.toml".into(), line: 3, column: 1 };
    assert_eq!(parsed.origin("training.seq_len"), file);
    assert_eq!(parsed.origin("training.local_batch_size"), Origin::Default);
    assert_eq!(parsed.config.job.config_file.as_deref(), Some("job.toml"));
    // What a flag turns off again is not refused.
    assert!(!config("[compile]\nenable = true", "--compile.no-enable").compile.enable);
}

#[test]
fn flags_in_every_form() {
    let Config { checkpoint, parallelism, training, debug, job, quantize, .. } = config(
        "",
        "--checkpoint.enable --checkpoint.no_last-save-model-only --checkpoint.no-initial_load_model_only \
         --checkpoint.exclude-from-loading optimizer,lr_scheduler,dataloader --job.dump-folder=a=b \
         --parallelism.context_parallel_load_balancer None --parallelism.data-parallel-shard-degree -1 \
         --parallelism.pipeline_parallel_schedule interleaved1f1b --training.dataloader.num_workers=2 \
         --training.dataloader.prefetch_factor 4 --training.max_norm 1 --debug.seed 42 \
         --parallelism.module_fqns_per_model_part [['tok_embeddings'],['norm','output']] \
         --quantize.linear.float8.filter_fqns output",
    );
    assert!(checkpoint.enable && !checkpoint.last_save_model_only && !checkpoint.initial_load_model_only);
    assert_eq!(checkpoint.exclude_from_loading, ["optimizer", "lr_scheduler", "dataloader"]);
    assert_eq!((job.dump_folder.as_str(), debug.seed, training.max_norm), ("a=b", Some(42), 1.0));
    assert_eq!(parallelism.context_parallel_load_balancer, None);
    assert_eq!(parallelism.data_parallel_shard_degree, -1);
    assert_eq!(parallelism.pipeline_parallel_schedule, PipelineSchedule::Interleaved1F1B);
    assert_eq!((training.dataloader.num_workers, training.dataloader.prefetch_factor), (2, Some(4)));
    let parts = vec![vec!["tok_embeddings".to_owned()], vec!["norm".to_owned(), "output".to_owned()]];
    assert_eq!(parallelism.module_fqns_per_model_part, Some(parts));
    assert_eq!(quantize.linear.float8.filter_fqns, ["output"]);
}

#[test]
fn every_key_has_a_flag_and_a_line_of_toml() {
    for row in keys() {
        let KeyRow { path, key, default } = row;
        // Another value of the same type, where every type that a key has is known to have one.
        let other = match default {
            Value::Bool(is_on) => Value::Bool(!is_on),
            Value::Int(number) => Value::Int(number + 1),
            Value::Float(number) => Value::Float(number + 0.25),
            Value::List(_) if (key.short)() == "list of lists" => {
                Value::List(vec![Value::List(vec![Value::Text("a".to_owned()), Value::Text("b".to_owned())])])
            }
            Value::List(_) => Value::List(vec![Value::Text("a".to_owned()), Value::Text("b".to_owned())]),
            other => other.clone(),
        };
        let mut expected = Config::default();
        assert!(expected.put(row, &other), "{path} = {other}");
        let flag = match &other {
            Value::Bool(true) => format!("--{path}"),
            Value::Bool(false) => format!("--{}", flags::off_flag(row)),
            other => format!("--{path}={}", other.to_flag()),
        };
        let (section, name) = path.rsplit_once('.').unwrap();
        let written = if other == Value::None { "\"None\"".to_owned() } else { other.to_string() };
        let toml = format!("[{section}]\n{name} = {written}\n");
        let of_flag = flags::read(std::iter::once(flag.clone()));
        assert_eq!(of_flag.problems, [], "{flag}");
        let (of_file, problems) = file::read(&toml, Path::new("job.toml"));
        assert_eq!(problems, [], "{toml}");
        for assignments in [of_flag.assignments, of_file] {
            let mut found = Config::default();
            assert!(assignments.iter().all(|one| found.put(one.row, &one.value)), "{flag} {toml}");
            assert_eq!((assignments.len(), &found), (1, &expected), "{flag} {toml}");
        }
    }
}

#[test]
fn the_table_is_sound() {
    for KeyRow { path, key, default } in keys() {
        assert!(key.doc.ends_with('.') && key.doc.is_ascii(), "{path}: {}", key.doc);
        if let Some(rule) = key.rule {
            assert!(rule.holds(default), "{path} = {default} {rule}");
        }
        assert!(key.refused_values.iter().all(|refused| refused.value != default.to_flag()), "{path}");
        for refused in key.refused_values {
            assert!(Config::default().put(super::key(path).unwrap(), &Value::Text(refused.value.to_owned())));
        }
        if let Status::Inert { of } = key.status {
            let switch = super::key(of.split(" =").next().unwrap()).unwrap();
            let is_refused = matches!(switch.key.status, Status::Refused { .. });
            assert!(is_refused || !switch.key.refused_values.is_empty(), "{path} goes with {of}");
        }
    }
    // TorchTitan 0.2.2's, those of `ft` and `flux` among them, and ours.
    let ours: Vec<_> = keys().filter(|row| row.key.is_ours).map(|row| row.path.as_str()).collect();
    let told = format!("{} keys\n{}", keys().count(), ours.join("\n"));
    insta::assert_snapshot!(told);
}

#[test]
fn types_of_elements_have_the_names_of_pytorch() {
    for (word, dtype) in ParamDtype::ALL
        .iter()
        .map(|choice| (choice.as_str(), choice.dtype()))
        .chain(ReduceDtype::ALL.iter().map(|choice| (choice.as_str(), choice.dtype())))
        .chain(ExportDtype::ALL.iter().map(|choice| (choice.as_str(), choice.dtype())))
    {
        assert_eq!(dtype.to_string(), word);
    }
}

#[test]
fn notes_tell_what_has_no_effect() {
    let parsed = parse("[model]\ntokenizer_path = \"a\"\n", "--training.gc_freq 10").unwrap();
    assert_eq!(
        parsed.notes,
        [
            "model.tokenizer_path is the old name of model.hf_assets_path; the value was taken for it",
            "training.gc_freq = 10 has no effect: there is no garbage collector"
        ]
    );
    assert_eq!(parsed.config.model.hf_assets_path, "a");
    let parsed = parse("", "--training.dataloader.prefetch_factor 4").unwrap();
    assert_eq!(
        parsed.notes,
        [
            "training.dataloader.prefetch_factor = 4 has no effect: num_workers is 0, so that nothing is read ahead"
        ]
    );
    let parsed = parse("[model]\ntokenizer_path = \"a\"\n", "").unwrap();
    assert!(matches!(parsed.origin("model.hf_assets_path"), Origin::File { line: 2, .. }));
}

#[test]
fn help_goes_before_all_else() {
    let args = ["--nonsense", "-h", "--job.config_file=absent.toml"];
    let parsed = Config::from_args(args, |_| Err(io::ErrorKind::NotFound.into())).unwrap();
    assert!(parsed.wants_help);
    assert_eq!(parsed.config, Config::default());
    insta::assert_snapshot!(help());
}

#[test]
fn a_file_that_is_not_there() {
    let args = ["--job.config_file=absent.toml"];
    let error = Config::from_args(args, |_| Err(io::ErrorKind::NotFound.into())).unwrap_err();
    assert_eq!(error.kind(), dcp::ErrorKind::Io);
    let expected =
        "absent.toml: the configuration could not be read; give the path of a TOML file, or `preset:NAME`";
    assert_eq!(error.to_string(), expected);
}

/// A model by the file that describes it, as a path of it or of its folder.
#[test]
fn a_flavor_may_be_a_file() {
    let mut described = convert::families::by_name("llama3:debugmodel").unwrap().config;
    for name in ["head_dim", "rope_theta", "rms_norm_eps", "rope_scaling"] {
        described.remove(name);
    }
    described.insert("tie_word_embeddings".to_owned(), true.into());
    let text = serde_json::to_string(&described).unwrap();
    for flavor in ["model/config.json", "model/", "./model"] {
        let flag = format!("--model.flavor={flavor}");
        let read = |path: &Path| {
            assert!(path == Path::new("model/config.json") || path == Path::new("./model/config.json"));
            Ok(text.clone())
        };
        let config = Config::from_args([flag.as_str()], read).unwrap().config;
        config.validate(2).unwrap();
        let model = config.model().unwrap();
        assert_eq!((model.family, model.tied.is_some(), &*model.flavor), ("llama3", true, flavor));
        // What the file leaves to defaults is told to whoever computes with it, and not to Hugging Face.
        assert_eq!(
            (&model.settings["head_dim"], &model.settings["rope_theta"]),
            (&16.into(), &10_000.0.into())
        );
        assert_eq!(model.config.get("head_dim"), None);
        assert_eq!(config.to_json()["model"]["flavor"], flavor);
    }
    let absent = |_: &Path| Err(io::ErrorKind::NotFound.into());
    let error = Config::from_args(["--model.flavor=there/"], absent).unwrap_err();
    assert_eq!(error.kind(), dcp::ErrorKind::Io);
    assert!(error.to_string().starts_with("model.flavor: there/config.json could not be read; "), "{error}");
    let says = |name: &str, text: &'static str| {
        let flags = [format!("--model.name={name}"), "--model.flavor=config.json".to_owned()];
        let config = Config::from_args(flags, |_| Ok(text.to_owned())).unwrap().config;
        config.validate(1).unwrap_err().to_string()
    };
    assert!(says("llama3", "{").contains("not a JSON object"));
    assert!(says("llama3", r#"{"model_type": "mamba"}"#).contains("of no family that is known"));
    let qwen = serde_json::to_string(&convert::families::by_name("qwen3:0.6B").unwrap().config).unwrap();
    let found = says("llama3", qwen.leak());
    assert!(
        found.contains("of the family qwen3, and model.name is \"llama3\"; set that to \"qwen3\""),
        "{found}"
    );
}

#[test]
fn nothing_given_is_the_default_and_valid() {
    let parsed = Config::from_args(Vec::<String>::new(), |_| unreachable!("no file is named")).unwrap();
    assert_eq!((&parsed.config, parsed.wants_help), (&Config::default(), false));
    parsed.config.validate(1).unwrap();
    assert_eq!(config("", "").training, Config::default().training);
}

#[test]
fn json_has_every_key_by_section_in_order() {
    let json = Config::default().to_json();
    for (row, value) in Config::default().values() {
        let pointer = format!("/{}", row.path.replace('.', "/"));
        assert_eq!(json.pointer(&pointer), Some(&value.to_json()), "{pointer}");
    }
    let text = Config::default().to_json_text();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), json);
    assert!(
        text.starts_with("{\n  \"job\": {\n    \"config_file\": null,\n    \"dump_folder\": \"./outputs\",")
    );
}

#[test]
fn the_page_is_up_to_date() {
    let page = include_str!("../../../docs/config.md");
    let is_same = page == reference();
    assert!(is_same, "run `cargo run -p job --example config_reference > docs/config.md`");
}

proptest! {
    #[test]
    fn any_text_gives_a_configuration_or_an_error(
        text in "(\\[?(training|job|quantize\\.linear)\\]?\n?|steps|seed|= ?|[0-9]{1,25}|\"|\\[|\\{|\u{e9}|#|\n|.){0,30}",
        args in proptest::collection::vec("-{0,3}(training|checkpoint|no)?[.=-]?(steps|enable|None)?=?(\u{e9}|1|.){0,3}", 0..5),
        world in 0u32..20,
    ) {
        let args = ["--job.config_file", "job.toml"].into_iter().map(str::to_owned).chain(args);
        match Config::from_args(args, |_| Ok(text.clone())) {
            Ok(parsed) => {
                let is_valid = parsed.config.validate(world);
                prop_assert!(is_valid.is_ok() || is_valid.unwrap_err().to_string().contains('\n'));
            }
            Err(Error::BadConfig { problems }) => {
                let lines = text.split('\n').count();
                let is_inside = |place: &Place| !matches!(place, Place::File { line, .. } if *line > lines);
                prop_assert!(!problems.is_empty() && problems.iter().all(|problem| is_inside(&problem.place)));
            }
            // A later flag may name another preset.
            Err(error) => prop_assert!(matches!(error, Error::NoSuchPreset { .. }), "{error}"),
        }
    }
}
