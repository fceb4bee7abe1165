//! The first of the newcomer's two commands (the second one runs this test).

use std::fs::{self, File};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::attach::{Terminal, detach};
use crate::support::{Process, Setup, binary, path, run};

#[test]
fn the_quick_start_runs_agents_and_leaves_nothing() {
    let setup = Setup::new();
    let screen = setup.path("screen");
    let home = setup.path("account");
    fs::create_dir(&home).unwrap();
    let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart"))
        .arg(binary())
        .env_clear()
        .envs([("PATH", path()), ("TMPDIR", setup.dir().display().to_string()), ("HOME", home.display().to_string())])
        .current_dir(setup.dir())
        .stdin(Stdio::null())
        .stdout(File::create(&screen).unwrap())
        .stderr(File::create(setup.path("stderr")).unwrap())
        .spawn()
        .unwrap();
    let said = setup.wait("the quick start's advice", || {
        let said = fs::read_to_string(&screen).unwrap();
        let complaint = fs::read_to_string(setup.path("stderr")).unwrap();
        assert_eq!(child.try_wait().unwrap(), None, "the command continues: {said}{complaint}");
        said.contains("Ctrl-C stops").then_some(said)
    });

    // A table, and a line that each agent has printed.
    let lines: Vec<&str> = said.lines().collect();
    let heading = lines.iter().position(|line| line.starts_with("NAME")).unwrap_or_else(|| panic!("no table: {said}"));
    for (row, name) in lines[heading + 1..].iter().zip(["keeper", "unlucky", "writer"]) {
        assert!(row.starts_with(name) && row.contains("running"), "{said}");
    }
    let prompts = ["keep the notes tidy", "make the flaky test pass", "write a page about daemons"];
    for (name, prompt) in ["keeper", "unlucky", "writer"].into_iter().zip(prompts) {
        let printed = lines[heading + 4..].iter().find(|line| line.starts_with(name));
        assert!(printed.is_some_and(|line| line.contains(prompt)), "{name}: {said}");
    }

    // The suggested commands are short, and work unchanged in the directory.
    let folder = said.lines().find_map(|line| line.strip_prefix("    cd ")).unwrap().to_owned();
    let tries: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("    ./agentd ")).collect();
    let commands: Vec<&str> = tries.iter().map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!(commands.len(), 3, "{said}");
    assert!(commands.iter().all(|command| command.len() <= 20), "{commands:?}");
    let paste = |line: &str| run(Command::new("bash").args(["-c", &format!("cd {folder} && {line}")]));
    for command in &commands {
        let command = format!("./agentd {}", command.replace("logs -f", "logs"));
        if !command.contains("attach") {
            let (status, answer) = paste(&command);
            assert!(status == Some(0) && !answer.is_empty(), "{command}: {answer}");
        }
    }
    let attach = commands.iter().find(|command| command.starts_with("attach")).unwrap();
    let mut operator = Terminal::new();
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("cd {folder} && exec ./agentd {attach}")]);
    shell.env_clear().envs([("PATH", path()), ("TERM", "xterm".to_owned())]);
    let mut attached = operator.run(shell);
    operator.wait_for(&setup, "I was given EXAMPLE_KEY");
    detach(&setup, &mut operator, &mut attached);

    // An edit is noticed, and the API and the daemon's log are where the output says.
    let (status, _) = paste("sed -i 's/name = \"writer\"/name = \"author\"/' jcard.toml");
    assert_eq!(status, Some(0));
    setup.wait("the edit to take effect", || {
        let (_, table) = paste("./agentd status");
        (table.contains("author") && !table.contains("writer")).then_some(())
    });
    let (_, body) = paste("curl -s --unix-socket run/agentd.sock http://agentd/v1/agents");
    assert!(body.contains(r#""session":"keeper""#), "{body}");
    let log = fs::read_to_string(format!("{folder}/agentd.log")).unwrap();
    assert!(log.contains("keeper"), "{log}");
    assert!(fs::exists(format!("{folder}/log/keeper")).unwrap(), "the kept output is also in its directory");

    // What is stopped here is stopped here only: another daemon of this user may have an agent of the same name.
    let (status, answer) = paste("./agentd stop keeper");
    assert!(status == Some(0) && fs::exists(format!("{folder}/overrides/keeper.toml")).unwrap(), "{answer}");

    Process(i32::try_from(child.id()).unwrap()).signal(Signal::SIGINT);
    let status = setup.wait("its end", || child.try_wait().unwrap());
    assert!(status.success(), "{status}");
    assert!(!fs::exists(&folder).unwrap(), "the directory is removed");
    assert_eq!(fs::read_dir(&home).unwrap().count(), 0, "nothing was written elsewhere");
    assert_eq!(setup.processes(), []);
}
