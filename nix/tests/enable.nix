# `services.agentd.enable = true;` is all it takes.
{ pkgs, ... }:
let
  jcard = pkgs.writeText "jcard.toml" ''
    [agent]
    name = "sleeper"
    harness = "custom"
    command = ["sleep", "infinity"]
  '';
in
{
  name = "agentd-enable";

  nodes.machine.services.agentd.enable = true;

  testScript = ''
    machine.wait_for_unit("agentd.service")
    machine.wait_for_unit("agentd-tmux.service")
    machine.succeed("agentd status")

    machine.succeed("install -D -m 644 ${jcard} /etc/stereos/jcard.toml")
    machine.wait_until_succeeds("agentd status sleeper")
    machine.wait_until_succeeds("pgrep --uid agent --full 'sleep infinity'")
    machine.wait_until_succeeds("journalctl AGENTD_AGENT=sleeper | grep running")
    machine.succeed("findmnt --mountpoint /run/agentd")
    machine.fail("journalctl --unit systemd-tmpfiles-setup.service | grep Duplicate")

    machine.succeed("systemctl stop agentd.service")
    machine.fail("pgrep --uid agent --full 'sleep infinity'")
    machine.fail("curl --unix-socket /run/stereos/agentd.sock http://agentd/v1/health")
  '';
}
