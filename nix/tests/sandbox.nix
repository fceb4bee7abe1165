# An agent in a sandbox of bubblewrap: its work is there, and what belongs to others is not.
{ pkgs, ... }:
let
  agent = pkgs.writeShellScript "agent" ''
    exec >inside 2>&1
    command -v hello && hello
    cat /run/stereos/secrets/TOKEN && echo leaked
    ls /run/stereos && echo seen
    touch /etc/written && echo written
    touch ~/kept
    ls -A ~
    echo done
    exec sleep infinity
  '';
in
{
  name = "agentd-sandbox";

  nodes.machine = {
    services.agentd = {
      enable = true;
      agents.boxed = {
        type = "sandboxed";
        harness = "custom";
        command = "${agent}";
        extra_packages = [ pkgs.hello ];
      };
    };
    systemd.tmpfiles.rules = [ "f /run/stereos/secrets/TOKEN 0600 root root - secret" ];
  };

  testScript = ''
    machine.wait_for_unit("agentd.service")
    machine.wait_until_succeeds("grep --line-regexp done /home/agent/workspace/inside")
    machine.succeed("grep 'Hello, world!' /home/agent/workspace/inside")
    for word in ["leaked", "seen", "written"]:
        machine.fail(f"grep --line-regexp {word} /home/agent/workspace/inside")
    machine.fail("test -e /home/agent/kept")
    machine.succeed("agentd doctor --json | grep sandbox")

    # It ends as any other agent does.
    machine.succeed("systemctl stop agentd.service")
    machine.wait_until_fails("pgrep --full --exact 'sleep infinity'")
  '';
}
