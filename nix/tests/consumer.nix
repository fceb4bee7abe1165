# A system that creates the users and folders itself, has its secrets as credentials, and a login shell that is not related to sh.
{ lib, pkgs, ... }:
let
  agent = pkgs.writeShellScript "agent" ''
    printf '%s' "$TOKEN" >~/token
    printf '%s' "$FROM_FISH" >~/from-fish
    command -v hello >~/hello
    exec sleep infinity
  '';
in
{
  name = "agentd-consumer";

  nodes.machine = {
    programs.fish = {
      enable = true;
      loginShellInit = "set --export FROM_FISH yes";
    };
    services.agentd = {
      enable = true;
      createUsers = false;
      agentHardening = true;
      settings.agents = [
        {
          name = "worker";
          harness = "custom";
          command = "${agent}";
          secrets = [ "TOKEN" ];
        }
      ];
      agentPackages = [ pkgs.hello ];
      extraArgs = [
        "-settle"
        "100ms"
      ];
    };
    systemd.tmpfiles.rules = [
      "d /run/agentd 0750 agent admin -"
      "d /run/stereos 0750 root admin -"
      "d /run/stereos/secrets 0700 root root -"
      "d /home/agent/workspace 0755 agent agent -"
    ];
    systemd.services.agentd.serviceConfig = {
      DynamicUser = lib.mkForce false;
      LoadCredential = "TOKEN:/etc/token";
      Restart = lib.mkForce "on-failure";
      RestartSec = 5;
    };
    environment.etc.token = {
      mode = "0600";
      text = "of-the-machine";
    };
    users.groups = {
      admin = { };
      agent = { };
    };
    users.users.agent = {
      isNormalUser = true;
      group = "agent";
      home = "/home/agent";
      shell = pkgs.fish;
    };
  };

  testScript = ''
    machine.wait_for_unit("agentd.service")
    machine.wait_until_succeeds("grep --line-regexp of-the-machine /home/agent/token")
    machine.wait_until_succeeds("grep --line-regexp yes /home/agent/from-fish")
    machine.wait_until_succeeds("test -s /home/agent/hello")
    machine.succeed("grep --line-regexp 'NoNewPrivs:[[:space:]]*1' /proc/$(pgrep --uid agent --full --exact 'sleep infinity')/status")
    machine.fail("journalctl --unit systemd-tmpfiles-setup.service | grep Duplicate")
    machine.succeed("test $(stat --format %a /run/agentd) = 750")

    machine.succeed("systemctl restart agentd.service")
    machine.wait_until_succeeds("agentd status worker")
  '';
}
