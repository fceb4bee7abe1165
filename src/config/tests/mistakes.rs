//! The mistakes that people make in a jcard, and the answer that each gets.

use rstest::rstest;

use super::super::*;

/// Everything that `agentd check` says about a text, with the word for its severity.
fn answers(text: &str) -> Vec<String> {
    let (mut findings, more) = match parse(text.as_bytes(), &Options::default()) {
        Ok(config) => (config.findings, config.sandbox_expected),
        Err(findings) => (findings, Vec::new()),
    };
    findings.extend(more);
    let word = |severity| if severity == Severity::Error { "error" } else { "warning" };
    let answer = |finding: &Finding| {
        let message = finding.exact.as_ref().unwrap_or(&finding.message);
        format!("{}:{}: {}: {message}", finding.line, finding.column, word(finding.severity))
    };
    findings.iter().map(answer).collect()
}

/// The only answer to a custom entry with these lines, from line 3 on.
fn answer(lines: &str) -> String {
    let answers = answers(&format!("[agent]\nharness = \"custom\"\n{lines}\n"));
    assert_eq!(answers.len(), 1, "{lines}: {answers:?}");
    answers[0].clone()
}

#[rstest]
#[case::misspelt_command("comand = \"x\"", "3:1: warning: unknown key \"comand\" is ignored; did you mean `command`?")]
#[case::misspelt_restart(
    "restrat = \"no\"",
    "3:1: warning: unknown key \"restrat\" is ignored; did you mean `restart`?"
)]
#[case::dash("max-restarts = 1", "3:1: warning: unknown key \"max-restarts\" is ignored; did you mean `max_restarts`?")]
#[case::case_of_key("workDir = \"/x\"", "3:1: warning: unknown key \"workDir\" is ignored; did you mean `workdir`?")]
#[case::prompt_array("prompt = [\"x\"]", "3:10: error: `prompt` is an array; write a string, in quotes")]
#[case::number_in_quotes("max_restarts = \"5\"", "3:16: error: `max_restarts` is a string; write a whole number")]
#[case::two_bytes(
    "memory = 2\ntype = \"native\"",
    "3:10: warning: `memory` is 2 bytes, in which no program runs; write a size with its unit, like \"2GiB\""
)]
#[case::restart_boolean(
    "restart = true",
    "3:11: error: `restart` is a boolean; write \"no\", \"on-failure\" or \"always\""
)]
#[case::args_string("args = \"-v\"", "3:8: error: `args` is a string; write an array of strings, in [ ]")]
#[case::secrets_string("secrets = \"X\"", "3:11: error: `secrets` is a string; write an array of names, or a table")]
#[case::backoff_string("backoff = \"5s\"", "3:11: error: `backoff` is a string; write an array of durations, in [ ]")]
#[case::no_unit_of_time("timeout = \"2 fortnights\"", "3:11: error: `timeout`: \"fortnights\" is not a unit of time")]
#[case::idle_timeout_boolean(
    "idle_timeout = true",
    "3:16: error: `idle_timeout` is a boolean; write a duration like \"30s\", or whole seconds"
)]
#[case::no_unit(
    "grace_period = \"30\"",
    "3:16: error: `grace_period`: the number 30 has no unit; write for example 30s"
)]
#[case::restart_word(
    "restart = \"onfailure\"",
    "3:11: error: invalid agent.restart \"onfailure\"; did you mean \"on-failure\"?"
)]
#[case::dockers_word(
    "restart = \"unless-stopped\"",
    "3:11: error: invalid agent.restart \"unless-stopped\"; write no, on-failure or always"
)]
#[case::bad_name("name = \"a b\"", "3:8: error: \"a b\" cannot be a `name`; a name has 1 to 64 characters")]
#[case::bad_session("session = \"a.b\"", "3:11: error: \"a.b\" cannot be a `session`; a name has 1 to 64 characters")]
#[case::no_replicas("replicas = 0", "3:12: error: `replicas` is out of range; write a whole number from 1 to 1000")]
#[case::negative_limit("pid_limit = -1\ntype = \"native\"", "3:13: error: `pid_limit` is out of range; write a whole")]
#[case::sandboxed_and_not(
    "type = \"sandboxed\"\nsandbox = \"none\"",
    "4:11: error: `sandbox = \"none\"` contradicts `type = \"sandboxed\"`"
)]
#[case::words(
    "command = \"python3 -m my_agent\"",
    "3:11: warning: `command` is one program's name with spaces; write command = [\"python3\", \"-m\", \"my_agent\"]"
)]
#[case::path_with_spaces(
    "command = \"/opt/my app/run\"",
    "3:11: warning: `command` is one program's name with spaces; write command = [\"/opt/my\", \"app/run\"], or \
     [\"/opt/my app/run\"] if that is the path of the program"
)]
#[case::shell_line(
    "command = \"cd x && ./run | tee y\"",
    "3:11: warning: `command` has shell syntax, and no shell interprets it; write command = [\"sh\", \"-c\", \"cd x && ./run | \
     tee y\"]"
)]
#[case::shell_quotes(
    "command = 'echo \"a b\"'",
    "3:11: warning: `command` has shell syntax, and no shell interprets it; write command = [\"sh\", \"-c\", 'echo \"a b\"']"
)]
#[case::shell_variable(
    "command = \"FOO=1 ./run\"",
    "3:11: warning: `command` has shell syntax, and no shell interprets it; write command = [\"sh\", \"-c\", \"FOO=1 ./run\"]"
)]
#[case::shell_args(
    "command = \"run\"\nargs = [\"x\", \"|\", \"tee\", \"y\"]",
    "4:8: warning: `args` has \"|\", and no shell interprets it; write command = [\"sh\", \"-c\", \"…\"] with the whole line in one string"
)]
#[case::variable(
    "command = \"$HOME/x\"",
    "3:11: warning: variables in `command` are not replaced; write an absolute path, or ~/"
)]
#[case::other_users_home("command = \"~bob/x\"", "3:11: warning: `~` is not replaced here; write the absolute path")]
#[case::home_in_a_later_argument(
    "args = [\"-f\", \"~/x\"]",
    "3:15: warning: `~` is not replaced here; write the absolute path"
)]
#[case::home_in_a_prompt_file(
    "prompt_file = \"~/x.md\"",
    "3:15: warning: `~` is not replaced in `prompt_file`, which is relative"
)]
#[case::home_in_env(
    "env = { A = \"~/x\" }",
    "3:13: warning: `~` is not replaced in the value of \"A\"; write the absolute path"
)]
#[case::two_prompts(
    "prompt = \"x\"\nprompt_file = \"y\"",
    "3:10: warning: `prompt` is ignored, because `prompt_file` takes precedence; remove one of them"
)]
#[case::restarts_of_none(
    "max_restarts = 3",
    "3:16: warning: `max_restarts` is about restarts, and `restart = \"no\"` makes none; write"
)]
#[case::backoff_of_none(
    "restart = \"no\"\nbackoff = [\"3s\"]",
    "4:11: warning: `backoff` is about restarts, and `restart = \"no\"` makes none; write"
)]
#[case::reset_of_none(
    "backoff_reset = \"1m\"",
    "3:17: warning: `backoff_reset` is about restarts, and `restart = \"no\"` makes none; write"
)]
#[case::processors(
    "cpu = \"150\"",
    "3:7: warning: `cpu` is 150 processors; write \"150%\" or 1.5 for a share of one, or \"15000%\" if this"
)]
#[case::processors_as_a_number(
    "cpu = 50",
    "3:7: warning: `cpu` is 50 processors; write \"50%\" or 0.5 for a share of one"
)]
#[case::endless(
    "prompt = \"x\"\nrestart = \"always\"",
    "4:11: warning: `restart = \"always\"` repeats a finished prompt without end; write `restart = \"on-failure\"`, or set"
)]
#[case::packages(
    "extra_packages = [\"jq\"]",
    "3:18: warning: without a `type`, this agent runs without a sandbox; the Go daemon would \
     sandbox it; write `type = \"sandboxed\"` to have it, or `type = \"native\"` if none is meant"
)]
#[case::flake_as_a_package(
    "type = \"native\"\nextra_packages = [\"jq\", \"github:NixOS/nixpkgs#jq\"]",
    "4:25: error: the package \"github:NixOS/nixpkgs#jq\" refers to a flake; write only the name in nixpkgs, such as \"ripgrep\""
)]
#[case::unknown_approval(
    "approval = \"aks\"",
    "3:12: error: unknown agent.approval \"aks\"; write readonly, edits, everything or ask"
)]
#[case::approval_without_a_hook(
    "approval = \"ask\"",
    "3:12: error: custom has no hook that could ask, so its `approval` cannot be \"ask\"; remove it, and write in `args`"
)]
#[case::timeout_without_asking(
    "approval_timeout = \"1m\"",
    "3:20: warning: `approval_timeout` has no effect without `approval = \"ask\"`; write that, or remove it"
)]
#[case::no_time_for_an_answer(
    "approval_timeout = 0",
    "3:20: error: `approval_timeout` is too small; write how long an answer may take"
)]
#[case::too_much_time_for_an_answer("approval_timeout = \"8d\"", "3:20: error: `approval_timeout` is too large")]
#[case::rule_that_is_no_expression(
    "approval_rules = [{ match = \"(\", then = \"ask\" }]",
    "3:29: error: `match` of a rule in `approval_rules` is not a regular expression: "
)]
#[case::rule_that_does_something_else(
    "approval_rules = [{ match = \"ls\", then = \"run\" }]",
    "3:42: error: a rule cannot do \"run\"; write { match = "
)]
#[case::rule_without_a_match(
    "approval_rules = [{ then = \"ask\" }]",
    "3:19: error: a rule in `approval_rules` lacks `match`"
)]
#[case::rule_with_another_key(
    "approval_rules = [{ match = \"ls\", then = \"ask\", tool = \"x\" }]",
    "3:49: error: the key \"tool\" may not be in a rule; write { match = "
)]
#[case::rule_as_a_text(
    "approval_rules = [\"ls\"]",
    "3:19: error: a rule in `approval_rules` is a string; write { match"
)]
#[case::option_as_a_package(
    "type = \"native\"\nextra_packages = [\"--impure\"]",
    "4:19: error: the package \"--impure\" is not a name in nixpkgs; it has letters, digits and . _ + -, and dots only between"
)]
#[case::path_as_a_package(
    "type = \"native\"\nextra_packages = [\"/usr/bin/jq\"]",
    "4:19: error: the package \"/usr/bin/jq\" is not a store path like /nix/store/<hash>-<name>; write that, or the name of"
)]
#[case::no_package(
    "type = \"native\"\nextra_packages = [\"\"]",
    "4:19: error: the package \"\" is empty; write the name"
)]
#[case::packages_as_a_text(
    "type = \"native\"\nextra_packages = \"jq\"",
    "4:18: error: `extra_packages` is a string; write an array of names, in [ ]"
)]
#[case::no_time_for_packages(
    "type = \"native\"\nextra_packages = [\"jq\"]\nextra_packages_timeout = 0",
    "5:26: error: `extra_packages_timeout` is too small; write how long a build may take, for example \"10m\""
)]
#[case::memory_without_a_type(
    "memory = \"2G\"",
    "3:10: warning: without a `type`, this agent runs without a sandbox; the Go daemon"
)]
#[case::tasks_without_a_type(
    "pid_limit = 512",
    "3:13: warning: without a `type`, this agent runs without a sandbox; the Go daemon"
)]
#[case::unused_paths(
    "sandbox_write = [\"/srv\"]",
    "3:17: warning: `sandbox_write` is ignored, because the agent has no sandbox; write `type = \"sandboxed\"`, or remove it"
)]
#[case::unused_proxy(
    "sandbox_proxy = \"unix:/run/p\"",
    "3:17: warning: `sandbox_proxy` is ignored, because the agent has no sandbox; write `type = \"sandboxed\"`, or remove it"
)]
#[case::unused_home(
    "sandbox_home = \"fresh\"",
    "3:16: warning: `sandbox_home` is ignored, because the agent has no sandbox; write `type = \"sandboxed\"`, or remove it"
)]
#[case::overridden_secret_of_a_table(
    "secrets = { A = \"b\" }\nenv = { A = \"x\" }",
    "3:11: warning: the secret \"A\" has no effect, because `env` sets that variable; remove the name from one of them"
)]
#[case::overridden_secret(
    "secrets = [\"A\"]\nenv = { A = \"x\" }",
    "3:11: warning: the secret \"A\" has no effect, because `env` sets that variable; remove the name from one of them"
)]
fn in_an_entry_is_answered_with_its_place_and_remedy(#[case] lines: &str, #[case] expected: &str) {
    let answer = answer(lines);
    assert!(answer.starts_with(expected), "{answer}");
}

#[rstest]
#[case::no_harness("[agent]\nprompt = \"x\"\n", "1:1: error: harness is required; write one of claude-code, opencode")]
#[case::no_harness_but_a_command(
    "[agent]\ncommand = \"x\"\n",
    "1:1: error: harness is required; write `harness = \"custom\"`, because the entry has a `command`"
)]
#[case::binary(
    "[agent]\nharness = \"claude\"\n",
    "2:11: error: unknown agent.harness \"claude\"; did you mean \"claude-code\"?"
)]
#[case::case_of_harness(
    "[agent]\nharness = \"Claude-Code\"\n",
    "2:11: error: unknown agent.harness \"Claude-Code\"; did you mean"
)]
#[case::unknown_harness(
    "[agent]\nharness = \"crush\"\n",
    "2:11: error: unknown agent.harness \"crush\"; write claude-code, opencode, gemini-cli, codex, pi, qwen-code, kimi or aider, or \
     \"custom\" with `command = [\"crush\"]`"
)]
#[case::unknown_harness_with_a_command(
    "[agent]\nharness = \"crush\"\ncommand = \"crush\"\n",
    "2:11: error: unknown agent.harness \"crush\"; write \"custom\", because the entry has a `command`"
)]
#[case::open_string("[agent]\nharness = \"x\n", "2:13: error: the file is not valid TOML: ")]
#[case::open_header("[[agents]\nharness = \"x\"\n", "1:10: error: the file is not valid TOML: ")]
#[case::yaml(
    "agents:\n  - name: x\n",
    "1:8: error: the file is not valid TOML: key with no value, expected `=`; this looks like YAML, write [[agents]] and key = value"
)]
#[case::duplicate_key("[agent]\nname = \"a\"\nname = \"b\"\n", "3:1: error: the file is not valid TOML: ")]
#[case::one_table(
    "[agents]\nharness = \"codex\"\n",
    "1:1: error: `agents` is a table; write [[agents]], in double brackets"
)]
#[case::named_table(
    "[agents.reviewer]\nharness = \"codex\"\n",
    "1:2: error: `agents` is a table; write [[agents]], in double"
)]
#[case::array_of_agent(
    "[[agent]]\nharness = \"codex\"\n",
    "1:1: error: `agent` is an array; write [agent] above one agent"
)]
#[case::empty("", "1:1: error: the file is empty; a jcard without agents still has a section")]
#[case::case_of_section(
    "[[Agents]]\nharness = \"codex\"\n",
    "1:3: warning: no agents are declared, and \"Agents\" is ignored; did you mean [[agents]]?"
)]
#[case::misspelt_section(
    "[[agnts]]\nharness = \"codex\"\n",
    "1:3: warning: no agents are declared, and \"agnts\" is ignored; did you"
)]
#[case::section_of_two_edits(
    "[[agen]]\nharness = \"codex\"\n",
    "1:3: warning: no agents are declared, and \"agen\" is ignored; did you"
)]
#[case::defaults(
    "[defaults]\nrestart = \"always\"\n",
    "1:2: warning: no agents are declared, and \"defaults\" is ignored; write [[agents]]"
)]
#[case::other_section(
    "[[workers]]\nharness = \"codex\"\n",
    "1:3: warning: no agents are declared, and \"workers\" has a `harness`; write"
)]
#[case::harnesses_of_another_type(
    "harnesses = 1\n[agent]\nharness = \"codex\"\n",
    "1:13: warning: `harnesses` is an integer, and is ignored; write [harnesses.NAME]"
)]
#[case::harness_of_another_type(
    "[harnesses]\nmine = 1\n[agent]\nharness = \"codex\"\n",
    "2:8: warning: the harness \"mine\" is an integer, and is ignored; write [harnesses.NAME]"
)]
#[case::unknown_key_of_a_harness(
    "[harnesses.codex]\nreslts = []\n[agent]\nharness = \"codex\"\n",
    "2:1: warning: unknown key \"reslts\" is ignored; did you mean `results`?"
)]
#[case::harness_folder_elsewhere(
    "[harnesses.codex]\nskills_dir = \"/etc/skills\"\n[agent]\nharness = \"codex\"\n",
    "2:14: warning: `skills_dir` is not a folder of the home, and is ignored; write for example skills_dir = \"${HOME}/"
)]
#[case::harness_path_elsewhere(
    "[harnesses.codex]\nlogin_files = [\".codex/auth.json\", \"../x\"]\n[agent]\nharness = \"codex\"\n",
    "2:36: warning: \"../x\" in `login_files` is not a path below the home, and is ignored; write for example \".agents\""
)]
#[case::harness_variable(
    "[harnesses.codex]\nauth = [\"A B\"]\n[agent]\nharness = \"codex\"\n",
    "2:9: warning: \"A B\" in `auth` is not a valid name of a variable, and is ignored; write for example \"API_KEY\""
)]
#[case::value_of_a_harness_of_another_type(
    "[harnesses.codex]\nasks = \"yes\"\n[agent]\nharness = \"codex\"\n",
    "2:8: warning: `asks` is a string, and is ignored; write true or false"
)]
#[case::rule_that_is_no_regular_expression(
    "[agent]\nharness = \"codex\"\n[[harnesses.codex.rules]]\non = \"exit\"\nmatch = \"(\"\nmeans = \"login\"\n",
    "5:9: error: `match` is not a regular expression: "
)]
#[case::rule_of_a_harness_that_nobody_uses(
    "[agent]\nharness = \"codex\"\n[[harnesses.pi.rules]]\non = \"exit\"\nmatch = \"(\"\nmeans = \"login\"\n",
    "5:9: warning: `match` is not a regular expression: "
)]
#[case::binary_of_nothing(
    "[agent]\nharness = \"codex\"\n[harnesses.codex]\nbinary = \"\"\n",
    "4:10: error: `binary` names no program; write the name or the path of the program"
)]
#[case::rule_of_a_harness_that_is_no_regular_expression_behind_others(
    "[agent]\nharness = \"mine\"\n[harnesses.mine]\nbinary = \"x\"\nrules = [{ on = \"exit\", match = \"a\", means = \"login\" }, { on = \"screen\", match = \"a{\", means = \"idle\" }]\n",
    "5:82: error: `match` is not a regular expression: "
)]
#[case::binary_of_spaces(
    "[agent]\nharness = \"claude-code\"\n[harnesses.claude-code]\nbinary = \"  \"\n",
    "4:10: error: `binary` names no program; write the name or the path of the program"
)]
#[case::binary_of_another_type(
    "[agent]\nharness = \"codex\"\n[harnesses.codex]\nbinary = []\n",
    "4:10: error: `binary` is an array; write the name or the path of the program, in quotes"
)]
#[case::hold_of_no_word(
    "[agent]\nharness = \"codex\"\nhold = \"wiat\"\n",
    "3:8: error: unknown agent.hold \"wiat\"; did you mean \"wait\"?"
)]
#[case::hold_of_another_type("[agent]\nharness = \"codex\"\nhold = 3\n", "3:8: error: `hold` is an integer")]
#[case::hold_retry_of_nothing(
    "[agent]\nharness = \"codex\"\nhold_retry = \"0s\"\n",
    "3:14: error: `hold_retry` is too small"
)]
#[case::hold_retry_of_no_unit(
    "[agent]\nharness = \"codex\"\nhold_retry = \"1 parsec\"\n",
    "3:14: error: `hold_retry`: "
)]
#[case::harness_without_a_binary(
    "[agent]\nharness = \"mine\"\n[harnesses.mine]\nasks = true\n",
    "3:12: error: the harness \"mine\" has no `binary`; write the name or path of its program"
)]
#[case::name_of_a_harness(
    "[agent]\nharness = \"codex\"\n[harnesses.\"my own\"]\nbinary = \"x\"\n",
    "3:12: warning: \"my own\" cannot be the name of a harness, and is ignored; a name has 1 to 64"
)]
#[case::case_of_a_preset(
    "[agent]\nharness = \"codex\"\n[harnesses.Codex]\nasks = true\n",
    "3:12: warning: the harness \"Codex\" differs only in case from codex, and is ignored; write [harnesses.codex]"
)]
#[case::harnesses_in_two_cases(
    "[agent]\nharness = \"mine\"\n[harnesses.Mine]\nbinary = \"x\"\n[harnesses.mine]\nbinary = \"x\"\n",
    "2:11: error: unknown agent.harness \"mine\"; did you mean \"Mine\"?"
)]
#[case::misspelt_harness_of_the_jcard(
    "[agent]\nharness = \"mime\"\n[harnesses.mine]\nbinary = \"x\"\n",
    "2:11: error: unknown agent.harness \"mime\"; did you mean \"mine\"?"
)]
#[case::approval_of_no_word(
    "[agent]\nharness = \"codex\"\napproval = \"all\"\n",
    "3:12: error: unknown agent.approval \"all\"; write readonly, edits, everything or ask"
)]
#[case::approval_that_the_harness_does_not_know(
    "[agent]\nharness = \"opencode\"\napproval = \"edits\"\n",
    "3:12: error: opencode has no words for the `approval` \"edits\"; write \"readonly\" or \"everything\", or `approval.edits` in \
     [harnesses.opencode]"
)]
#[case::approval_of_a_custom_command(
    "[agent]\nharness = \"custom\"\napproval = \"edits\"\n",
    "3:12: error: custom has no words for the `approval` \"edits\"; remove it, and write in `args` what the program knows"
)]
#[case::approval_that_args_say_too(
    "[agent]\nharness = \"codex\"\napproval = \"edits\"\nargs = [\"-s\", \"read-only\"]\n",
    "3:12: warning: `approval` has no effect, because `args` says \"-s\"; remove one of them"
)]
#[case::everything_without_a_sandbox(
    "[agent]\nharness = \"codex\"\napproval = \"everything\"\n",
    "3:12: warning: nothing confines what codex does unasked, and it can do all that the agent user can; write `type = "
)]
#[case::codex_that_sandboxes_itself_in_a_sandbox(
    "[agent]\nharness = \"codex\"\napproval = \"edits\"\nsandbox = \"bwrap\"\n",
    "3:12: warning: \"--sandbox\" makes codex sandbox its commands, which fails in a sandbox; write `approval = \"everything\"`"
)]
#[case::prompt_that_asks_nobody(
    "[agent]\nharness = \"claude-code\"\nprompt = \"x\"\n",
    "2:11: warning: claude-code asks for permission, and nobody is there to give it; write `approval = \"readonly\"`"
)]
#[case::prompt_at_the_terminal_of_kimi(
    "[agent]\nharness = \"kimi\"\nprompt = \"x\"\ninteractive = true\n",
    "4:15: error: kimi takes no prompt at its terminal; write `interactive = false`, or remove the prompt"
)]
#[case::names_in_two_cases(
    "[[agents]]\nharness = \"codex\"\nname = \"a\"\n[[agents]]\nharness = \"codex\"\nname = \"A\"\n",
    "6:8: error: duplicate agent name \"A\", which the entry at line 3 has; give each a name of its own"
)]
#[case::one_session_twice(
    "[[agents]]\nharness = \"codex\"\nname = \"a\"\n[[agents]]\nharness = \"codex\"\nname = \"b\"\nsession = \"a\"\n",
    "7:11: error: duplicate session \"a\", which the entry at line 3 has; give each a session of its own"
)]
#[case::results_of_none(
    "[agent]\nharness = \"aider\"\nprompt = \"x\"\napproval = \"everything\"\nuser = \"u\"\nresults = true\n",
    "6:11: error: aider has no machine-readable output that agentd can read; remove `results`, or set `stream` in its"
)]
#[case::results_of_nothing(
    "[agent]\nharness = \"codex\"\nresults = true\n",
    "3:11: error: `results = true` needs something to do; write a `prompt` or a `prompt_file`"
)]
#[case::results_at_a_terminal(
    "[agent]\nharness = \"codex\"\nprompt = \"x\"\ninteractive = true\nresults = true\n",
    "5:11: error: `results = true` and `interactive = true` exclude each other; remove one of them"
)]
#[case::results_in_quotes(
    "[agent]\nharness = \"codex\"\nresults = \"yes\"\n",
    "3:11: error: `results` is a string; write true or false, without quotes"
)]
#[case::cost_that_is_not_learned(
    "[agent]\nharness = \"codex\"\nmax_cost = 5\n",
    "3:12: error: `max_cost` needs `results = true`; without it, agentd does not learn what the agent costs"
)]
#[case::cost_of_nothing(
    "[agent]\nharness = \"codex\"\nprompt = \"x\"\nresults = true\nmax_cost = 0.0\n",
    "5:12: error: `max_cost` is out of range; write a number of US dollars above 0, for example 5.00"
)]
#[case::cost_in_words(
    "[agent]\nharness = \"codex\"\nprompt = \"x\"\nresults = true\nmax_cost = \"$5\"\n",
    "5:12: error: `max_cost` is a string; write a number of US dollars above 0, for example 5.00"
)]
fn in_a_file_is_answered_with_its_place_and_remedy(#[case] text: &str, #[case] expected: &str) {
    let mut answers = answers(text);
    if text.contains("Mine]") {
        let second = answers.pop().unwrap();
        assert!(second.contains("the harness \"mine\" differs only in case from Mine, and is ignored"), "{second}");
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(answers[0].starts_with(expected), "{}", answers[0]);
}

#[rstest]
#[case("command = [\"/opt/my app/run\"]")]
#[case("command = \"~/bin/x\"")]
#[case("args = [\"~/x\"]")]
#[case("command = [\"sh\", \"-c\", \"cd x && ./run | tee y\"]")]
#[case("command = \"sh\"\nargs = [\"-c\", \"x\", \"|\"]")]
#[case("env = { PORT = 8080, DEBUG = true }")]
#[case("memory = \"2G\"\ntype = \"native\"")]
#[case("extra_packages = []\nmemory = \"\"\npid_limit = 0")]
#[case("cpu = \"150%\"")]
#[case("cpu = 1.5")]
#[case("cpu = \"15000%\"")]
#[case("prompt = \"x\"\nrestart = \"always\"\ntimeout = \"2h\"")]
#[case("prompt = \"x\"\nrestart = \"always\"\nmax_restarts = 0")]
#[case("restart = \"always\"")]
#[case("max_restarts = 0\nbackoff = []\nbackoff_reset = 0")]
#[case::home_in_a_line_for_a_shell("command = \"sh\"\nargs = [\"-c\", \"~/bin/x\"]")]
#[case::home_in_a_line_in_the_command("command = [\"bash\", \"-lc\", \"~/bin/x\"]")]
fn what_is_meant_is_not_warned_about(#[case] lines: &str) {
    assert_eq!(answers(&format!("[agent]\nharness = \"custom\"\n{lines}\n")), Vec::<String>::new());
}

#[rstest]
#[case("# nothing\n")]
#[case("[mixtape]\nname = \"vm\"\n")]
#[case("[events]\nsink = \"x\"\n")]
#[case("agents = []\n")]
#[case("[agent]\nharness = \"codex\"\n[[agnts]]\nname = \"other program's\"\n")]
fn a_file_that_means_it_is_not_warned_about(#[case] text: &str) {
    assert_eq!(answers(text), Vec::<String>::new());
}

#[rstest]
#[case("on_rotate = \"Idle\"", "3:13: error: invalid `on_rotate` \"Idle\"; did you mean \"idle\"?")]
#[case("on_rotate = true", "3:13: error: `on_rotate` is ")]
#[case("rotate_spread = \"soon\"", "3:17: error: ")]
#[case("rotate_within = -1", "3:17: error: ")]
#[case(
    "on_rotate = \"next\"\nrotate_spread = \"1m\"",
    "4:17: warning: `rotate_spread` is ignored; with `on_rotate = \"next\"` new values launch nothing; remove it"
)]
#[case(
    "rotate_within = \"1m\"",
    "3:17: warning: `rotate_within` is ignored; it limits how long `on_rotate = \"idle\"` waits; write that, or remove it"
)]
#[case(
    "on_rotate = \"files\"",
    "3:13: error: `on_rotate = \"files\"` needs files to replace; write `secret_files = true`, too"
)]
#[case("secret_files = true", "3:16: warning: every agent of the default user can read the files of this one; ")]
fn a_rotation_that_cannot_be_is_a_finding(#[case] lines: &str, #[case] expected: &str) {
    let answers = answers(&format!("[agent]\nharness = \"custom\"\n{lines}\n"));
    assert!(answers.iter().any(|answer| answer.starts_with(expected)), "{answers:?}");
}

#[rstest]
#[case("skills = \"a\"", "3:10: error: ")]
#[case("skills = [\"\"]", "3:11: error: a path in `skills` is empty; ")]
#[case("skills = [\"a/*/b\"]", "3:11: error: \"a/*/b\" cannot be in `skills`; ")]
#[case("skills = [\"~/a\"]", "3:11: error: \"~/a\" cannot be in `skills`; skills are not taken from a home")]
#[case("skills = [\"a\", \"a\"]", "3:16: warning: \"a\" is twice in `skills`; remove one of them")]
fn a_path_of_skills_that_cannot_be_is_a_finding(#[case] lines: &str, #[case] expected: &str) {
    let answers = answers(&format!("[agent]\nharness = \"custom\"\n{lines}\n"));
    assert!(answers.iter().any(|answer| answer.starts_with(expected)), "{answers:?}");
}

#[test]
fn warnings_do_not_change_what_is_declared() {
    let text = "[[agents]]\nharness = \"custom\"\ncommand = \"a | b\"\ncpu = 150\nprompt = \"x\"\nrestart = \"always\"\nmemory = \"2G\"\n";
    let config = parse(text.as_bytes(), &Options::default()).unwrap();
    let spec = config.entries[0].spec.as_ref().unwrap();
    assert_eq!((spec.command.as_slice(), spec.policy.limits.cpu), (["a | b".to_owned()].as_slice(), Some(15_000)));
    assert_eq!((config.findings.len(), config.sandbox_expected.len(), config.complete), (3, 1, true));
}

#[test]
fn what_is_logged_repeats_no_command() {
    let text = "[agent]\nharness = \"custom\"\ncommand = \"curl --header sk-secret\"\n";
    let config = parse(text.as_bytes(), &Options::default()).unwrap();
    let warning = config.warning().unwrap();
    assert!(warning.ends_with("write an array: the program, and each argument by itself"), "{warning}");
    assert!(!warning.contains("sk-secret"), "{warning}");
}

/// Each was tried with each engine; see `tests/e2e/harnesses.rs`.
#[test]
fn what_works_in_a_sandbox_is_no_warning() {
    for harness in ["claude-code", "codex", "gemini-cli", "opencode"] {
        for engine in Engine::ALL {
            let text = format!("[agent]\nharness = \"{harness}\"\nsandbox = \"{engine}\"\n");
            assert_eq!(parse(text.as_bytes(), &Options::default()).unwrap().warning(), None, "{text}");
        }
    }
}

#[test]
fn a_network_that_is_not_kept_away_is_a_warning() {
    let text = "[agent]\nharness = \"custom\"\nsandbox = \"bwrap\"\nnetwork = \"none\"\n";
    let warning =
        |unsandboxed| parse(text.as_bytes(), &Options { unsandboxed, ..Options::default() }).unwrap().warning();
    let expected = "4:11: `network = \"none\"` is ignored, because agentd runs with --unsandboxed";
    assert!(warning(true).is_some_and(|warning| warning.contains(expected)), "{:?}", warning(true));
    assert_eq!(warning(false), None);
}

#[test]
fn with_gos_flags_each_entry_without_a_type_is_named() {
    let text = "[[agents]]\nharness = \"codex\"\n[[agents]]\nharness = \"custom\"\ntype = \"native\"\n";
    let found = |options| parse(text.as_bytes(), &options).unwrap().sandbox_expected;
    let found_from_go = found(Options { from_go: true, ..Options::default() });
    assert_eq!(found_from_go.iter().map(|finding| finding.line).collect::<Vec<_>>(), [1]);
    assert_eq!(found(Options::default()), []);
    assert_eq!(found(Options { from_go: true, unsandboxed: true, ..Options::default() }), []);
    assert_eq!(found(Options { from_go: true, default_type: DefaultType::Sandboxed, ..Options::default() }), []);
}

#[rstest]
#[case::own_sandbox(
    "codex",
    "type = \"sandboxed\"\nargs = [\"-s\", \"workspace-write\"]",
    "4:8: \"-s\" makes codex sandbox its commands, which fails in a sandbox; remove it"
)]
#[case::lost_home(
    "claude-code",
    "type = \"sandboxed\"\nsandbox_home = \"fresh\"\nrestart = \"on-failure\"",
    "4:16: each restart loses claude-code's conversations with the home; write `sandbox_home = \"kept\"`"
)]
fn what_fails_in_a_sandbox_is_a_warning(#[case] harness: &str, #[case] lines: &str, #[case] expected: &str) {
    let text = format!("[agent]\nharness = \"{harness}\"\n{lines}\n");
    let warning = parse(text.as_bytes(), &Options::default()).unwrap().warning().unwrap();
    assert!(warning.starts_with(expected) && !warning.contains('\n'), "{warning}");
}

#[rstest]
#[case("custom", "resume = \"Always\"", "3:10: error: invalid agent.resume \"Always\"; did you mean \"always\"?")]
#[case("custom", "resume = true", "3:10: error: `resume` is ")]
#[case(
    "custom",
    "resume = \"restart\"",
    "3:10: error: custom has no words for a conversation that `resume` could resume; "
)]
#[case("claude-code", "resume_prompt = \"Go on.\"", "3:17: warning: `resume_prompt` is ignored; write ")]
#[case(
    "claude-code",
    "resume = \"restart\"\nresume_prompt = \"Go on.\"",
    "4:17: warning: `resume_prompt` is ignored, because the entry has no prompt; "
)]
#[case(
    "claude-code",
    "resume = \"restart\"\nargs = [\"-p\"]",
    "3:10: error: `resume` with \"-p\" in `args` needs something to do; "
)]
#[case(
    "claude-code",
    "prompt = \"x\"\nresume = \"restart\"\nargs = [\"--resume\", \"x\"]",
    "5:8: error: \"--resume\" in `args` names a conversation, as `resume` does; "
)]
#[case(
    "codex",
    "prompt = \"x\"\nresume = \"always\"\nresume_prompt = \"-\"",
    "5:17: error: codex takes the prompt for an order to read its terminal; "
)]
fn a_conversation_that_cannot_be_resumed_is_a_finding(
    #[case] harness: &str,
    #[case] lines: &str,
    #[case] expected: &str,
) {
    let answers = answers(&format!("[agent]\nharness = {harness:?}\n{lines}\n"));
    assert!(answers.iter().any(|answer| answer.starts_with(expected)), "{answers:?}");
}
