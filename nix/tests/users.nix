# Agents of two users, neither of which reaches what the other has, and the packages that an entry names.
{ pkgs, ... }:
let
  agent = pkgs.writeShellScript "agent" ''
    id --user --name >~/whoami
    printf '%s' "$TOKEN" >~/token
    command -v hello >~/hello
    exec sleep infinity
  '';
in
{
  name = "agentd-users";

  nodes.machine = {
    services.agentd = {
      enable = true;
      users = [ "agent-reviewer" ];
      secretFiles.TOKEN = "/run/token";
      agents = {
        writer = {
          type = "native";
          harness = "custom";
          command = "${agent}";
          secrets = [ ];
        };
        reviewer = {
          type = "native";
          harness = "custom";
          command = "${agent}";
          user = "agent-reviewer";
          workdir = "~/workspace";
          secrets = [ "TOKEN" ];
          extra_packages = [ pkgs.hello ];
        };
      };
    };
    systemd.tmpfiles.rules = [ "f /run/token 0600 root root - of-the-reviewer" ];
  };

  testScript = ''
    machine.wait_for_unit("agentd.service")
    machine.wait_for_unit("agentd-tmux@agent-reviewer.service")
    machine.wait_until_succeeds("grep --line-regexp agent /home/agent/whoami")
    machine.wait_until_succeeds("grep --line-regexp agent-reviewer /home/agent-reviewer/whoami")
    machine.wait_until_succeeds("grep of-the-reviewer /home/agent-reviewer/token")
    machine.succeed("test ! -s /home/agent/token")
    machine.wait_until_succeeds("grep ^/nix/store/ /home/agent-reviewer/hello")
    machine.fail("runuser --user agent -- cat /home/agent-reviewer/token")
    machine.fail("runuser --user agent -- tmux -N -S /run/agentd-daemon/users/agent-reviewer/tmux.sock list-sessions")
    machine.fail("runuser --user agent -- cat /proc/$(pgrep --uid agent-reviewer --full --exact 'sleep infinity')/environ")
    machine.succeed("test $(stat --format %U:%a /run/agentd-daemon/users/agent-reviewer) = agent-reviewer:2750")

    # Neither is restarted with the daemon.
    before = machine.succeed("pgrep --full --exact 'sleep infinity'")
    machine.succeed("systemctl restart agentd.service")
    machine.wait_until_succeeds("agentd status reviewer")
    assert before == machine.succeed("pgrep --full --exact 'sleep infinity'")
  '';
}
