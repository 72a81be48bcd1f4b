/* llm.fs: what Lua's own library lacks for keeping files that others use too: directories, links, replacing,
 * locks between processes, checksums. */

#define _GNU_SOURCE
#include "api.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <limits.h>
#include <lualib.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define API_LOCK   "llm.fs.lock"
#define API_DIGEST "llm.fs.digest"

static int fail(lua_State *L, int code, const char *what, const char *path)
{
    struct llm_error err = {LLM_OK, ""};
    llm_fail(&err, code == ENOENT || code == ENOTDIR ? LLM_ENOENT : LLM_EIO, "%s %s: %s", what, path,
             strerror(code));
    return api_fail(L, &err);
}

/* ---- directories and links ----------------------------------------------------------------------------- */

/* fs.stat(path) -> {type = "file" | "directory" | "other", size = bytes} | nil, message, code. Follows links.
 * [-0, +1|3, e] */
static int fs_stat(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    struct stat st;
    if (stat(path, &st) != 0) return fail(L, errno, "cannot look at", path);
    lua_createtable(L, 0, 2);
    lua_pushstring(L, S_ISREG(st.st_mode) ? "file" : S_ISDIR(st.st_mode) ? "directory" : "other");
    lua_setfield(L, -2, "type");
    lua_pushnumber(L, (double)st.st_size);
    lua_setfield(L, -2, "size");
    return 1;
}

/* fs.mkdir(path) -> true | nil, message, code. Makes its parents too; one that is there will do.
 * [-0, +1|3, e] */
static int fs_mkdir(lua_State *L)
{
    size_t size;
    const char *path = luaL_checklstring(L, 1, &size);
    char *part = lua_newuserdata(L, size + 1);
    struct stat st;
    for (size_t i = 1; i <= size; i++) {
        if (path[i] != '/' && path[i] != '\0') continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, 0777) == 0 || errno == EEXIST) continue;
        int code = errno; /* a parent on a read-only file system may well be there */
        if (stat(part, &st) != 0 || !S_ISDIR(st.st_mode))
            return fail(L, code, "cannot make the directory", part);
    }
    if (stat(path, &st) != 0) return fail(L, errno, "cannot make the directory", path);
    if (!S_ISDIR(st.st_mode)) return fail(L, ENOTDIR, "cannot make the directory", path);
    lua_pushboolean(L, 1);
    return 1;
}

/* (DIR *, path) -> list. Runs protected: making the list takes memory. */
static int read_names(lua_State *L)
{
    DIR *dir = lua_touserdata(L, 1);
    lua_newtable(L);
    int n = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        lua_pushstring(L, entry->d_name);
        lua_rawseti(L, -2, ++n);
    }
    return 1;
}

/* fs.list(path) -> names in the directory, in any order | nil, message, code. [-0, +1|3, e] */
static int fs_list(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    DIR *dir = opendir(path);
    if (!dir) return fail(L, errno, "cannot read the directory", path);
    lua_pushcfunction(L, read_names);
    lua_pushlightuserdata(L, dir);
    int status = lua_pcall(L, 1, 1, 0);
    closedir(dir);
    return status == 0 ? 1 : lua_error(L);
}

/* fs.symlink(target, path) -> true | nil, message, code. A link to the same target that is there will do.
 * [-0, +1|3, e] */
static int fs_symlink(lua_State *L)
{
    const char *target = luaL_checkstring(L, 1), *path = luaL_checkstring(L, 2);
    if (symlink(target, path) != 0) {
        int code = errno;
        char present[4096];
        ssize_t n = code == EEXIST ? readlink(path, present, sizeof present) : -1;
        if (n < 0 || (size_t)n != strlen(target) || memcmp(present, target, (size_t)n) != 0)
            return fail(L, code, "cannot make the link", path);
    }
    lua_pushboolean(L, 1);
    return 1;
}

/* Writes text to a new file beside `path`, which gets the mode and, if this process may, the owner of `like`.
 * Returns 0 or errno. name: a template for mkstemp, then the file's name. */
static int write_like(char *name, const struct stat *like, const char *text, size_t size)
{
    int fd = mkostemp(name, O_CLOEXEC);
    if (fd < 0) return errno;
    int code = fchmod(fd, like->st_mode & 07777) != 0 ? errno : 0;
    if (fchown(fd, like->st_uid, like->st_gid) != 0) errno = 0; /* it stays this user's */
    while (size > 0 && !code) {
        ssize_t n = write(fd, text, size);
        if (n < 0 && errno != EINTR) code = errno;
        if (n > 0) text += n, size -= (size_t)n;
    }
    if (!code && fsync(fd) != 0) code = errno;
    if (close(fd) != 0 && !code) code = errno;
    if (code) unlink(name);
    return code;
}

/* fs.replace(path, text) -> true | nil, message, code. Gives a file a new text: who reads it meanwhile sees
 * the old one or the new one. A link stays a link: the file it leads to is replaced. Mode and owner stay.
 * [-0, +1|3, e] */
static int fs_replace(lua_State *L)
{
    size_t size;
    const char *path = luaL_checkstring(L, 1), *text = luaL_checklstring(L, 2, &size);
    char target[PATH_MAX], name[PATH_MAX];
    struct stat st;
    if (!realpath(path, target) || stat(target, &st) != 0) return fail(L, errno, "cannot replace", path);
    /* The six letters are mkstemp's to replace. */
    if (snprintf(name, sizeof name, "%s.XXXXXX", target) >= (int)sizeof name)
        return fail(L, ENAMETOOLONG, "cannot replace", path);
    int code = write_like(name, &st, text, size);
    if (!code && rename(name, target) != 0) {
        code = errno;
        unlink(name);
    }
    if (code) return fail(L, code, "cannot replace", path);
    lua_pushboolean(L, 1);
    return 1;
}

/* fs.sync(file) -> true | nil, message, code: what was written to this io file is on the disk.
 * [-0, +1|3, e] */
static int fs_sync(lua_State *L)
{
    FILE *file = *(FILE **)luaL_checkudata(L, 1, LUA_FILEHANDLE);
    if (!file) return luaL_error(L, "the file is closed");
    if (fflush(file) != 0 || fsync(fileno(file)) != 0) return fail(L, errno, "cannot write", "the file");
    lua_pushboolean(L, 1);
    return 1;
}

/* fs.room(path) -> bytes that this user may still write to the file system of path | nil, message, code.
 * [-0, +1|3, e] */
static int fs_room(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    struct statvfs st;
    if (statvfs(path, &st) != 0) return fail(L, errno, "cannot look at the file system of", path);
    lua_pushnumber(L, (double)st.f_bavail * (double)st.f_frsize);
    return 1;
}

/* ---- locks --------------------------------------------------------------------------------------------- */

static int lock_close(lua_State *L)
{
    int *fd = luaL_checkudata(L, 1, API_LOCK);
    if (*fd >= 0) close(*fd); /* ends the lock with it */
    *fd = -1;
    return 0;
}

/* fs.lock(path) -> lock | false (somebody else has it) | nil, message, code. A flock(2) on the file, which is
 * made if need be and never removed: removing it would let two processes lock different files of one name.
 * [-0, +1|3, e] */
static int fs_lock(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    int *fd = lua_newuserdata(L, sizeof *fd);
    *fd = -1;
    luaL_getmetatable(L, API_LOCK);
    lua_setmetatable(L, -2);
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*fd < 0) return fail(L, errno, "cannot open the lock", path);
    if (flock(*fd, LOCK_EX | LOCK_NB) == 0) return 1;
    int code = errno;
    close(*fd);
    *fd = -1;
    if (code != EWOULDBLOCK && code != EINTR) return fail(L, code, "cannot lock", path);
    lua_pushboolean(L, 0);
    return 1;
}

/* ---- checksums ----------------------------------------------------------------------------------------- */

/* fs.digest(name) -> digest: "sha256", "sha1". [-0, +1, e] */
static int fs_digest(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    const EVP_MD *type = EVP_get_digestbyname(name);
    if (!type) return luaL_error(L, "no digest '%s'", name);
    EVP_MD_CTX **context = lua_newuserdata(L, sizeof(EVP_MD_CTX *));
    *context = NULL;
    luaL_getmetatable(L, API_DIGEST);
    lua_setmetatable(L, -2);
    *context = EVP_MD_CTX_new();
    if (!*context || !EVP_DigestInit_ex(*context, type, NULL))
        return luaL_error(L, "cannot start a %s", name);
    return 1;
}

static EVP_MD_CTX *check_digest(lua_State *L)
{
    EVP_MD_CTX **context = luaL_checkudata(L, 1, API_DIGEST);
    if (!*context) luaL_error(L, "the digest is closed");
    return *context;
}

/* digest:update(text) [-0, +0, e] */
static int digest_update(lua_State *L)
{
    size_t size;
    EVP_MD_CTX *context = check_digest(L);
    const char *text = luaL_checklstring(L, 2, &size);
    if (!EVP_DigestUpdate(context, text, size)) return luaL_error(L, "the digest has failed");
    return 0;
}

static int digest_close(lua_State *L)
{
    EVP_MD_CTX **context = luaL_checkudata(L, 1, API_DIGEST);
    EVP_MD_CTX_free(*context);
    *context = NULL;
    return 0;
}

/* digest:hex() -> the sum of all that went in, in lower-case hexadecimal; the digest is closed. [-0, +1, e]
 */
static int digest_hex(lua_State *L)
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    char text[2 * EVP_MAX_MD_SIZE + 1];
    unsigned n = 0;
    if (!EVP_DigestFinal_ex(check_digest(L), sum, &n)) return luaL_error(L, "the digest has failed");
    for (unsigned i = 0; i < n; i++) snprintf(text + 2 * (size_t)i, 3, "%02x", sum[i]);
    digest_close(L);
    lua_pushlstring(L, text, 2 * (size_t)n);
    return 1;
}

/* ---- the module ---------------------------------------------------------------------------------------- */

int luaopen_llm_fs(lua_State *L)
{
    static const luaL_Reg lock_methods[] = {{"close", lock_close}, {NULL, NULL}};
    static const luaL_Reg digest_methods[] = {
        {"update", digest_update}, {"hex", digest_hex}, {"close", digest_close}, {NULL, NULL}};
    static const luaL_Reg functions[] = {
        {"stat", fs_stat},       {"mkdir", fs_mkdir}, {"list", fs_list}, {"symlink", fs_symlink},
        {"sync", fs_sync},       {"room", fs_room},   {"lock", fs_lock}, {"digest", fs_digest},
        {"replace", fs_replace}, {NULL, NULL}};
    api_new_type(L, API_LOCK, lock_methods, lock_close);
    api_new_type(L, API_DIGEST, digest_methods, digest_close);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}
