//! The first of the newcomer's two commands (the second one runs this test).

use std::fs::{self, File};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::attach::{Terminal, detach};
use crate::support::{Process, Setup, binary, path, run};

#[test]
fn the_quick_start_runs_says_what_to_paste_and_leaves_nothing() {
    let setup = Setup::new();
    let screen = setup.path("screen");
    let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart"))
        .arg(binary())
        .env_clear()
        .envs([("PATH", path()), ("TMPDIR", setup.dir().display().to_string()), ("HOME", "/".to_owned())])
        .current_dir(setup.dir())
        .stdin(Stdio::null())
        .stdout(File::create(&screen).unwrap())
        .stderr(File::create(setup.path("stderr")).unwrap())
        .spawn()
        .unwrap();
    let said = setup.wait("the quick start's advice", || {
        assert_eq!(child.try_wait().unwrap(), None, "it goes on: {}", setup.log());
        fs::read_to_string(&screen).ok().filter(|said| said.contains("Ctrl-C ends"))
    });
    let command = |word: &str| {
        let line = said.lines().find(|line| line.contains(word)).unwrap_or_else(|| panic!("no {word}: {said}"));
        line[line.find(word).unwrap()..].to_owned()
    };
    let paste = |line: &str| run(Command::new("bash").args(["-c", line]));
    setup.wait("all three agents", || {
        let body = paste(&command("curl -s")).1;
        let is_there = ["writer", "unlucky"].iter().all(|name| body.contains(name));
        (is_there && body.contains(r#""session":"keeper""#)).then_some(())
    });
    let folder = said.split("runs in ").nth(1).unwrap().split(',').next().unwrap();
    let (status, table) = paste(&command(&format!("{folder}/agentd status")));
    assert!(status.is_some() && table.contains("keeper"), "{table}");
    let mut operator = Terminal::new();
    let words = format!("exec {folder}/{}", command("agentd attach"));
    let mut shell = Command::new("bash");
    shell.args(["-c", &words]).env_clear().envs([("PATH", path()), ("TERM", "xterm".to_owned())]);
    let mut attached = operator.run(shell);
    operator.wait_for(&setup, "I was given EXAMPLE_KEY");
    detach(&setup, &mut operator, &mut attached);
    assert!(fs::exists(format!("{folder}/log/keeper")).unwrap(), "what is kept is in its folder, too");
    Process(i32::try_from(child.id()).unwrap()).signal(Signal::SIGINT);
    let status = setup.wait("its end", || child.try_wait().unwrap());
    assert!(status.success(), "{status}");
    assert!(!fs::exists(folder).unwrap(), "the folder is removed");
    assert_eq!(setup.processes(), []);
}
