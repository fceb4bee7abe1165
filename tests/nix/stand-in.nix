# As much of nixpkgs and of NixOS as agentd's Nix files use, so that they can be evaluated where nixpkgs is not to be had. It says
# what is defined, merged as NixOS merges it. Whether NixOS has the options that are set is for `nix flake check` to say.
let
  inherit (builtins)
    all
    any
    attrNames
    attrValues
    concatLists
    concatMap
    concatStringsSep
    elem
    elemAt
    filter
    foldl'
    functionArgs
    genList
    head
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isPath
    isString
    length
    listToAttrs
    mapAttrs
    replaceStrings
    split
    stringLength
    substring
    ;

  isMarked = mark: value: isAttrs value && value._type or null == mark;
  isDerivation = value: isAttrs value && value.type or null == "derivation";
  isSet = value: isAttrs value && !isDerivation value;

  lib = {
    inherit (builtins)
      all
      any
      attrNames
      attrValues
      concatLists
      concatMap
      concatStringsSep
      elem
      elemAt
      filter
      foldl'
      genList
      head
      isAttrs
      isList
      length
      listToAttrs
      mapAttrs
      replaceStrings
      sort
      ;

    mkIf = condition: content: {
      _type = "if";
      inherit condition content;
    };
    mkMerge = contents: {
      _type = "merge";
      inherit contents;
    };
    mkOverride = priority: content: {
      _type = "override";
      inherit priority content;
    };
    mkDefault = lib.mkOverride 1000;
    mkForce = lib.mkOverride 50;

    mkOption = option: option // { _type = "option"; };
    mkEnableOption =
      what:
      lib.mkOption {
        type = lib.types.bool;
        default = false;
        example = true;
        description = "Whether to enable ${what}.";
      };
    mkPackageOption =
      set: name:
      {
        extraDescription ? "",
      }:
      lib.mkOption {
        type = lib.types.package;
        default = set.${name};
        defaultText = lib.literalExpression "pkgs.${name}";
        description = "The ${name} package to use. ${extraDescription}";
      };
    literalExpression = text: {
      _type = "literalExpression";
      inherit text;
    };
    literalMD = text: {
      _type = "literalMD";
      inherit text;
    };

    types =
      let
        type = name: check: { inherit name check; };
      in
      {
        bool = type "boolean" isBool;
        int = type "integer" isInt;
        str = type "string" isString;
        package = type "package" isDerivation;
        path = type "path" (
          value: isPath value || isDerivation value || (isString value && lib.hasPrefix "/" value)
        );
        enum =
          values: type (lib.concatMapStringsSep " or " builtins.toJSON values) (value: elem value values);
        nullOr = of: type "null or ${of.name}" (value: value == null || of.check value);
        either = a: b: type "${a.name} or ${b.name}" (value: a.check value || b.check value);
        oneOf =
          of: type (concatStringsSep " or " (map (one: one.name) of)) (value: any (one: one.check value) of);
        listOf = of: type "list of ${of.name}" (value: isList value && all of.check value);
        attrsOf =
          of: type "attribute set of ${of.name}" (value: isAttrs value && all of.check (attrValues value));
      };

    concatMapStringsSep =
      separator: apply: list:
      concatStringsSep separator (map apply list);
    concatStrings = concatStringsSep "";
    drop = count: list: genList (at: elemAt list (at + count)) (lib.max 0 (length list - count));
    id = value: value;
    max = a: b: if a > b then a else b;
    splitString = separator: text: filter isString (split (lib.escapeRegex separator) text);
    take =
      count: list: genList (elemAt list) (lib.max 0 (if count < length list then count else length list));
    zipListsWith =
      apply: a: b:
      genList (at: apply (elemAt a at) (elemAt b at)) (
        if length a < length b then length a else length b
      );
    boolToString = value: if value then "true" else "false";
    escapeRegex =
      let
        special = genList (at: substring at 1 "\\[{()^$?*+|.") 12;
      in
      replaceStrings special (map (character: "\\${character}") special);
    filterAttrs = keep: set: removeAttrs set (filter (name: !keep name set.${name}) (attrNames set));
    escapeShellArg =
      text:
      if builtins.match "[[:alnum:],._+:@%/-]+" text != null then
        text
      else
        "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] text}'";
    genAttrs = names: value: listToAttrs (map (name: lib.nameValuePair name (value name)) names);
    getBin = package: package.bin or package;
    inherit isDerivation;
    getExe = package: "${package}/bin/${package.meta.mainProgram}";
    hasInfix = infix: text: length (split (lib.escapeRegex infix) text) > 1;
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    hasSuffix =
      suffix: text:
      let
        rest = stringLength text - stringLength suffix;
      in
      rest >= 0 && substring rest (stringLength suffix) text == suffix;
    importTOML = file: fromTOML (builtins.readFile file);
    makeBinPath = lib.concatMapStringsSep ":" (package: "${package}/bin");
    mapAttrs' = apply: set: listToAttrs (lib.mapAttrsToList apply set);
    mapAttrsToList = apply: set: map (name: apply name set.${name}) (attrNames set);
    nameValuePair = name: value: { inherit name value; };
    optional = condition: value: lib.optionals condition [ value ];
    optionalAttrs = condition: set: if condition then set else { };
    optionalString = condition: text: if condition then text else "";
    optionals = condition: list: if condition then list else [ ];
    removePrefix =
      prefix: text: substring (stringLength prefix) (stringLength text - stringLength prefix) text;
    removeSuffix = suffix: text: substring 0 (stringLength text - stringLength suffix) text;
    runTests =
      tests:
      lib.mapAttrsToList (name: { expr, expected }: {
        inherit name expected;
        result = expr;
      }) (lib.filterAttrs (_: { expr, expected }: expr != expected) tests);
    unique = foldl' (found: one: if elem one found then found else found ++ [ one ]) [ ];

    fileset = {
      toSource = { root, fileset }: { inherit root fileset; };
      unions = files: files;
    };
    generators.toPretty = _: builtins.toJSON;
    licenses.mit = "MIT";
    nixosSystem = { modules }: { config = evaluate modules; };
    platforms.linux = [ ];
  };

  package = name: {
    type = "derivation";
    inherit name;
    outPath = "${builtins.storeDir}/00000000000000000000000000000000-${name}";
    meta.mainProgram = name;
    # Python's.
    withPackages =
      choose:
      package (
        lib.concatMapStringsSep "-" (one: one.name) (
          [ { inherit name; } ] ++ choose { prometheus-client = package "prometheus-client"; }
        )
      );
    overrideAttrs = changes: package "${name}-${changes.version}";
  };

  pkgs = {
    inherit lib;
    callPackage =
      file: given:
      let
        function = import file;
      in
      function (
        mapAttrs (name: _: given.${name} or pkgs.${name} or (package name)) (functionArgs function)
      );
    coreutils = package "coreutils";
    emptyFile = package "empty-file";
    fetchFromGitHub = source: package source.repo;
    formats.toml = _: {
      type = {
        name = "TOML";
        check = isAttrs;
      };
      generate = name: value: package name // { inherit value; };
    };
    mkShell = shell: package "shell" // shell;
    glibc = package "glibc" // {
      static = package "glibc-static";
    };
    nixfmt-tree = package "nixfmt-tree";
    runCommandLocal =
      name: attributes: buildCommand:
      package name // attributes // { inherit buildCommand; };
    rustPlatform.buildRustPackage = crate: package crate.pname // crate;
    stdenv = pkgs.stdenvOf "x86_64-linux";
    stdenvOf = system: {
      buildPlatform.canExecute = _: true;
      hostPlatform = {
        inherit system;
        isGnu = true;
        rust.rustcTarget = "rust-target";
      };
    };
    symlinkJoin = { name, ... }: package name;
    testers.runNixOSTest = test: package "vm-test" // { inherit test; };
    tmux = package "tmux";
    writeShellScript = name: _: package name;
    writeText = name: _: package name;
  }
  // lib.genAttrs [
    "bubblewrap"
    "crun"
    "gvisor"
    "cargo"
    "deadnix"
    "fish"
    "hello"
    "nixfmt"
    "ripgrep"
    "rustfmt"
  ] package;

  # For systemd, a double-quoted string with C's escapes is one argument, and of what is in it only `%` and `$` still mean
  # something (systemd.service(5), "COMMAND LINES").
  utils.escapeSystemdExecArgs = lib.concatMapStringsSep " " (
    argument: replaceStrings [ "%" "$" ] [ "%%" "$$" ] (builtins.toJSON "${argument}")
  );

  # The definitions behind one that apply, each with its priority; the lowest number counts.
  discharge =
    priority: value:
    if isMarked "merge" value then
      concatMap (discharge priority) value.contents
    else if isMarked "if" value then
      lib.optionals value.condition (discharge priority value.content)
    else if isMarked "override" value then
      discharge value.priority value.content
    else
      [ { inherit priority value; } ];

  # Attribute sets are merged, lists are appended, and anything else must be the same everywhere.
  merge =
    path: definitions:
    let
      priority = foldl' (a: b: if a < b.priority then a else b.priority) 9999 definitions;
      values = map ({ value, ... }: value) (filter (it: it.priority == priority) definitions);
      names = filter (name: concatMap (discharge 100) (found values name) != [ ]) (namesIn values);
    in
    if all isSet values then
      lib.genAttrs names (mergeAttribute path values)
    else if all isList values then
      concatLists values
    else if all (value: value == head values) values then
      head values
    else
      throw "${concatStringsSep "." path} is defined as ${builtins.toJSON values}";

  # The attribute sets behind one, with its conditions and priorities on their attributes: which attributes there are can then be
  # told without knowing whether they apply.
  push =
    value:
    if isMarked "merge" value then
      concatMap push value.contents
    else if isMarked "if" value then
      map (mapAttrs (_: lib.mkIf value.condition)) (push value.content)
    else if isMarked "override" value then
      map (mapAttrs (_: lib.mkOverride value.priority)) (push value.content)
    else
      [ value ];

  found = sets: name: concatMap (set: lib.optionals (set ? ${name}) [ set.${name} ]) sets;
  namesIn = sets: lib.unique (concatMap attrNames sets);
  mergeAttribute =
    path: sets: name:
    merge (path ++ [ name ]) (concatMap (discharge 100) (found sets name));

  # What is defined, and by default, for declared options.
  settle =
    path: options: sets:
    mapAttrs (
      name: option:
      let
        here = path ++ [ name ];
        definitions = concatMap (discharge 100) (found sets name);
        value = if definitions == [ ] then option.default else merge here definitions;
      in
      if !isMarked "option" option then
        settle here option (concatMap push (found sets name))
      else if option.type.check value then
        value
      else
        throw "${concatStringsSep "." here} is no ${option.type.name}: ${builtins.toJSON value}"
    ) options
    // lib.genAttrs (filter (name: !options ? ${name}) (namesIn sets)) (
      name: throw "there is no option ${concatStringsSep "." (path ++ [ name ])}"
    );

  evaluate =
    modules:
    let
      load =
        module:
        let
          content = if isPath module then import module else module;
          arguments = {
            inherit
              config
              lib
              pkgs
              utils
              ;
          };
          called = if isFunction content then content arguments else content;
        in
        if called ? config || called ? options then called else { config = called; };
      loaded = map load modules;
      options = foldl' (a: b: a // b) { services = { }; } (map (module: module.options or { }) loaded);
      sets = concatMap (module: push (module.config or { })) loaded;
      defined = lib.genAttrs (namesIn sets) (mergeAttribute [ ] sets);

      # Only options that are declared here are known; of NixOS's own there is what somebody defines, and these.
      config = {
        assertions = [ ];
        nixpkgs.overlays = [ ];
      }
      // defined
      // {
        environment = {
          etc = { };
        }
        // defined.environment or { };
        services = settle [ "services" ] options.services (concatMap push (found sets "services"));
        systemd = {
          services = { };
        }
        // defined.systemd or { }
        // {
          tmpfiles = {
            rules = [ ];
          }
          // defined.systemd.tmpfiles or { };
        };
        users = {
          groups = { };
        }
        // defined.users or { }
        // {
          users = mapAttrs (
            name: user:
            {
              extraGroups = [ ];
              home = if user.isSystemUser or false then "/var/empty" else "/home/${name}";
            }
            // user
          ) (defined.users.users or { });
        };
      };
    in
    config;
in
{
  inherit
    evaluate
    lib
    package
    pkgs
    ;
}
