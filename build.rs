//! How the launcher is linked. There is one for each agent, so it counts how much of its memory is its own: a static
//! program has no pages of the dynamic linker's and of libraries' data, which each process has for itself; and one at a fixed place has
//! none that are changed for where it is (some 30 KiB). Stack, heap and mappings stay where the kernel places them at random. The
//! launcher is the agent user's, without any unsafe code: who would attack it has its rights already.
//!
//! Only this one of the binaries: `agentd` looks users up, for which the C library loads others (`nsswitch.conf(5)`).
//!
//! rustc names the libraries as shared ones, whatever else the linker is told. So they are found first in a folder of this build's,
//! in which each is a script of the linker's (`ld(1)`, "Implicit Linker Scripts") that names the archive instead. Where the system
//! has no archives of its C library, the launcher is linked as everything is, and has some 50 KiB more.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

const BINARY: &str = "agentd-launcher";

/// What rustc links, and what stands for it.
const LIBRARIES: [(&str, &str); 7] = [
    ("gcc_s", "INPUT(libgcc_eh.a)"),
    ("c", "GROUP(libc.a libgcc.a libgcc_eh.a)"),
    ("m", "INPUT(libm.a)"),
    ("dl", "INPUT(libdl.a)"),
    ("rt", "INPUT(librt.a)"),
    ("util", "INPUT(libutil.a)"),
    ("pthread", "INPUT(libpthread.a)"),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=AGENTD_LAUNCHER_LINK");
    println!("cargo::rerun-if-env-changed=CC");
    let Some(scripts) = env::var_os("OUT_DIR").map(|folder| PathBuf::from(folder).join("static")) else { return };
    // For those who distribute it, and want to be sure.
    let is_static = match env::var("AGENTD_LAUNCHER_LINK").as_deref() {
        Ok("static") => write(&scripts).is_ok(),
        Ok("dynamic") => false,
        _ => is_usual_target() && write(&scripts).is_ok() && links(&scripts),
    };
    if is_static {
        println!("cargo::rustc-link-arg-bin={BINARY}=-no-pie");
        println!("cargo::rustc-link-arg-bin={BINARY}=-static");
        println!("cargo::rustc-link-arg-bin={BINARY}=-L{}", scripts.display());
    }
}

/// Whether the program is for the system that it is built on, which has the GNU C library: for another, nothing is known of its
/// linker and its libraries.
fn is_usual_target() -> bool {
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|it| it == value);
    is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") && env::var("HOST") == env::var("TARGET")
}

fn write(scripts: &Path) -> std::io::Result<()> {
    fs::create_dir_all(scripts)?;
    LIBRARIES
        .iter()
        .try_for_each(|(name, script)| fs::write(scripts.join(format!("lib{name}.so")), format!("{script}\n")))
}

/// Whether a program that is linked so can be linked here, and run.
fn links(scripts: &Path) -> bool {
    let (source, program) = (scripts.join("probe.c"), scripts.join("probe"));
    if fs::write(&source, "#include <stdio.h>\nint main(void) { return puts(\"linked\") < 0; }\n").is_err() {
        return false;
    }
    let mut compiler = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    compiler.args(["-no-pie", "-static", "-nodefaultlibs"]).arg(&source).arg("-o").arg(&program);
    compiler.arg(format!("-L{}", scripts.display()));
    // As rustc does it.
    compiler.arg("-Wl,--as-needed,-Bdynamic").args(LIBRARIES.iter().map(|(name, _)| format!("-l{name}")));
    let succeeds = |command: &mut Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|it| it.success())
    };
    succeeds(&mut compiler) && succeeds(&mut Command::new(&program))
}
