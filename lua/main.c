/* The llmlua program: finds the script, makes a Lua state for it, runs it, reports its error. */

#define _GNU_SOURCE
#include "api.h"
#include "embed.h"
#include "interrupt.h"
#include "repl.h"
#include "state.h"

#include <lauxlib.h>
#include <luajit.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { EXIT_USAGE = 2 };

static const char usage[] = "usage: llmlua [options] SCRIPT [arguments]\n"
                            "\n"
                            "Runs a Lua script with the inference engine at hand as require \"llm\". SCRIPT "
                            "is a path, else the name of a\n"
                            "bundled script, with or without .lua.\n"
                            "\n"
                            "options:\n"
                            "  -e CODE     run CODE (may be repeated; a script is then optional)\n"
                            "  -i          interactive prompt, after the script if there is one\n"
                            "  -           run the script on standard input\n"
                            "  --version   print the version and exit\n"
                            "  --help      print this and exit\n"
                            "\n"
                            "bundled scripts (llmlua NAME --help says more):\n";

static const char *const option_names[] = {"-e", "-i", "-", "--version", "--help", NULL};

static void print_help(void)
{
    fputs(usage, stdout);
    for (const struct embedded_file *f = embedded_files; f->path; f++) {
        if (strncmp(f->path, "scripts/", 8) == 0 && !strchr(f->path + 8, '/')) printf("  %s\n", f->path + 8);
    }
}

/* What the command line asks for. Indices into argv. */
struct command {
    int first_code; /* of the first -e; 0: none */
    int script;     /* argc: none */
    int interactive;
};

static int unknown_option(lua_State *L, const char *name)
{
    const char *guess = NULL;
    lua_getglobal(L, "require");
    lua_pushliteral(L, "llm.suggest");
    if (lua_pcall(L, 1, 1, 0) == 0) {
        lua_getfield(L, -1, "nearest");
        lua_pushstring(L, name);
        lua_newtable(L);
        for (int i = 0; option_names[i]; i++) {
            lua_pushstring(L, option_names[i]);
            lua_rawseti(L, -2, i + 1);
        }
        if (lua_pcall(L, 2, 1, 0) == 0) guess = lua_tostring(L, -1);
    }
    if (guess) {
        fprintf(stderr, "llmlua: unknown option '%s'; did you mean '%s'?\n", name, guess);
    } else {
        fprintf(stderr, "llmlua: unknown option '%s'; llmlua --help lists them\n", name);
    }
    return EXIT_USAGE;
}

/* Returns -1 to go on, or the exit code. */
static int parse(lua_State *L, int argc, char **argv, struct command *out)
{
    *out = (struct command){.script = argc};
    int i = 1;
    for (; i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
        const char *name = argv[i];
        if (strcmp(name, "-e") == 0) {
            if (i + 1 >= argc) {
                fprintf(stderr, "llmlua: -e needs the code to run\n");
                return EXIT_USAGE;
            }
            if (!out->first_code) out->first_code = i;
            i++;
        } else if (strcmp(name, "-i") == 0) {
            out->interactive = 1;
        } else if (strcmp(name, "--version") == 0) {
            printf("llmlua %s (%s)\n", llm_version(), LUAJIT_VERSION);
            return 0;
        } else if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
            print_help();
            return 0;
        } else {
            return unknown_option(L, name);
        }
    }
    out->script = i;
    return -1;
}

/* arg[0] is the script, arg[1] … its arguments, arg[-1] … what came before it, as in lua. */
static void set_arg(lua_State *L, int argc, char **argv, int script)
{
    int zero = script < argc ? script : 0;
    lua_createtable(L, argc - zero, zero + 1);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i - zero);
    }
    lua_setglobal(L, "arg");
}

static int run_codes(lua_State *L, char **argv, const struct command *command)
{
    for (int i = command->first_code; i && i < command->script; i++) {
        if (strcmp(argv[i], "-e") != 0) continue;
        i++;
        if (luaL_loadbuffer(L, argv[i], strlen(argv[i]), "=(command line)") != 0 || state_call(L, 0, 0) != 0)
            return state_report(L);
    }
    return 0;
}

static int run_script(lua_State *L, int argc, char **argv, int script)
{
    if (state_load_script(L, argv[script]) != 0) return state_report(L);
    if (!lua_checkstack(L, argc)) {
        fprintf(stderr, "llmlua: too many arguments\n");
        return EXIT_USAGE;
    }
    for (int i = script + 1; i < argc; i++) lua_pushstring(L, argv[i]);
    return state_call(L, argc - script - 1, 0) == 0 ? 0 : state_report(L);
}

static int run(lua_State *L, int argc, char **argv)
{
    struct command command;
    int code = parse(L, argc, argv, &command);
    if (code >= 0) return code;
    int has_script = command.script < argc;
    int nothing = !has_script && !command.first_code && !command.interactive;
    set_arg(L, argc, argv, command.script);

    code = run_codes(L, argv, &command);
    if (code == 0 && has_script) code = run_script(L, argc, argv, command.script);
    if (command.interactive || (nothing && isatty(STDIN_FILENO))) return repl_run(L);
    if (nothing) {
        char *from_stdin[] = {argv[0], "-"};
        return run_script(L, 2, from_stdin, 1);
    }
    return code;
}

/* A server wants a file for each connection; the soft limit is low for programs that use select. */
static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit); /* refused: it stays as it is */
}

int main(int argc, char **argv)
{
    raise_file_limit();
    lua_State *L = state_open();
    if (!L) {
        fprintf(stderr, "llmlua: no memory for a Lua state\n");
        return 1;
    }
    state_preload(L, "llm.line", luaopen_llm_line);
    interrupt_install(L);
    int code = run(L, argc, argv);
    interrupt_remove();
    lua_close(L);
    if (fflush(stdout) != 0 && code == 0) {
        fprintf(stderr, "llmlua: cannot write the output\n");
        code = 1;
    }
    return code;
}
