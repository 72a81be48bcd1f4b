#define _GNU_SOURCE
#include "pattern.h"

#include <ctype.h>
#include <lauxlib.h>
#include <string.h>

enum { OPEN = -1, POSITION = -2 };

struct capture {
    const char *start;
    ptrdiff_t length; /* or OPEN, POSITION */
};

struct matcher {
    lua_State *L;
    const char *subject, *subject_end, *pattern_end;
    int n_captures, steps, depth;
    struct capture captures[PATTERN_MAX_CAPTURES];
};

static const char *match(struct matcher *m, const char *s, const char *p);

static void step(struct matcher *m)
{
    if (--m->steps < 0) luaL_error(m->L, "pattern too complex: more than %d steps", PATTERN_MAX_STEPS);
}

/* ---- one character ------------------------------------------------------------------------------------- */

/* The end of the single-character class that begins at p. */
static const char *class_end(struct matcher *m, const char *p)
{
    char c = *p++;
    if (c == '%') {
        if (p == m->pattern_end) luaL_error(m->L, "malformed pattern (ends with '%%')");
        return p + 1;
    }
    if (c != '[') return p;
    if (p < m->pattern_end && *p == '^') p++;
    do { /* a ']' that comes first is a member */
        if (p == m->pattern_end) luaL_error(m->L, "malformed pattern (missing ']')");
        step(m);
        if (*p++ == '%' && p < m->pattern_end) p++;
    } while (p == m->pattern_end || *p != ']');
    return p + 1;
}

static int in_class(int c, int class)
{
    int is;
    switch (tolower(class)) {
    case 'a':
        is = isalpha(c);
        break;
    case 'c':
        is = iscntrl(c);
        break;
    case 'd':
        is = isdigit(c);
        break;
    case 'g':
        is = isgraph(c);
        break;
    case 'l':
        is = islower(c);
        break;
    case 'p':
        is = ispunct(c);
        break;
    case 's':
        is = isspace(c);
        break;
    case 'u':
        is = isupper(c);
        break;
    case 'w':
        is = isalnum(c);
        break;
    case 'x':
        is = isxdigit(c);
        break;
    case 'z':
        is = c == 0;
        break;
    default:
        return class == c;
    }
    return isupper(class) ? !is : is != 0;
}

/* p: the '['; last: its ']'. */
static int in_set(struct matcher *m, int c, const char *p, const char *last)
{
    int found = 1;
    if (p[1] == '^') {
        found = 0;
        p++;
    }
    while (++p < last) {
        step(m);
        if (*p == '%') {
            p++;
            if (in_class(c, (unsigned char)*p)) return found;
        } else if (p[1] == '-' && p + 2 < last) {
            p += 2;
            if ((unsigned char)p[-2] <= c && c <= (unsigned char)*p) return found;
        } else if ((unsigned char)*p == c) {
            return found;
        }
    }
    return !found;
}

static int matches_one(struct matcher *m, const char *s, const char *p, const char *end)
{
    if (s >= m->subject_end) return 0;
    int c = (unsigned char)*s;
    switch (*p) {
    case '.':
        return 1;
    case '%':
        return in_class(c, (unsigned char)p[1]);
    case '[':
        return in_set(m, c, p, end - 1);
    default:
        return (unsigned char)*p == c;
    }
}

/* ---- items --------------------------------------------------------------------------------------------- */

static const char *balanced(struct matcher *m, const char *s, const char *p)
{
    if (p + 1 >= m->pattern_end) luaL_error(m->L, "unbalanced pattern");
    if (s >= m->subject_end || *s != p[0]) return NULL;
    int depth = 1;
    while (++s < m->subject_end) {
        step(m);
        if (*s == p[1]) {
            if (--depth == 0) return s + 1;
        } else if (*s == p[0]) {
            depth++;
        }
    }
    return NULL;
}

static const char *longest_first(struct matcher *m, const char *s, const char *p, const char *end)
{
    ptrdiff_t n = 0;
    while (matches_one(m, s + n, p, end)) {
        step(m);
        n++;
    }
    for (; n >= 0; n--) {
        const char *result = match(m, s + n, end + 1);
        if (result) return result;
    }
    return NULL;
}

static const char *shortest_first(struct matcher *m, const char *s, const char *p, const char *end)
{
    for (;;) {
        const char *result = match(m, s, end + 1);
        if (result) return result;
        if (!matches_one(m, s, p, end)) return NULL;
        s++;
    }
}

static const char *open_capture(struct matcher *m, const char *s, const char *p, int what)
{
    if (m->n_captures >= PATTERN_MAX_CAPTURES) luaL_error(m->L, "too many captures");
    m->captures[m->n_captures] = (struct capture){s, what};
    m->n_captures++;
    const char *result = match(m, s, p);
    if (!result) m->n_captures--;
    return result;
}

static const char *close_capture(struct matcher *m, const char *s, const char *p)
{
    int i = m->n_captures - 1;
    while (i >= 0 && m->captures[i].length != OPEN) i--;
    if (i < 0) luaL_error(m->L, "invalid pattern capture");
    m->captures[i].length = s - m->captures[i].start;
    const char *result = match(m, s, p);
    if (!result) m->captures[i].length = OPEN;
    return result;
}

static const char *back_reference(struct matcher *m, const char *s, int digit)
{
    int i = digit - '1';
    if (i < 0 || i >= m->n_captures || m->captures[i].length == OPEN)
        luaL_error(m->L, "invalid capture index %%%c", digit);
    ptrdiff_t n = m->captures[i].length;
    if (n < 0) luaL_error(m->L, "invalid capture index %%%c: it is a position", digit);
    m->steps -= (int)(n / 16);
    step(m);
    if (m->subject_end - s < n || memcmp(m->captures[i].start, s, (size_t)n) != 0) return NULL;
    return s + n;
}

/* Is this the place where a character of the set follows one that is not? */
static const char *frontier(struct matcher *m, const char *s, const char *p, const char **rest)
{
    if (p >= m->pattern_end || *p != '[') luaL_error(m->L, "missing '[' after '%%f' in pattern");
    const char *end = class_end(m, p);
    *rest = end;
    int before = s == m->subject ? 0 : (unsigned char)s[-1];
    int here = s == m->subject_end ? 0 : (unsigned char)*s;
    return !in_set(m, before, p, end - 1) && in_set(m, here, p, end - 1) ? s : NULL;
}

/* An item that begins with '%' and is more than a class: its match's end, and where the pattern goes on. 0:
 * it is a class. */
static int special(struct matcher *m, const char **s, const char **p)
{
    if (*p + 1 >= m->pattern_end) return 0;
    int c = (unsigned char)(*p)[1];
    if (c == 'b') {
        *s = balanced(m, *s, *p + 2);
        *p += 4;
    } else if (c == 'f') {
        *s = frontier(m, *s, *p + 2, p);
    } else if (isdigit(c)) {
        *s = back_reference(m, *s, c);
        *p += 2;
    } else {
        return 0;
    }
    return 1;
}

/* The end of the match of the pattern from p on at s, null if there is none. */
static const char *match_items(struct matcher *m, const char *s, const char *p)
{
    while (p < m->pattern_end) {
        step(m);
        if (*p == '(') {
            if (p + 1 < m->pattern_end && p[1] == ')') return open_capture(m, s, p + 2, POSITION);
            return open_capture(m, s, p + 1, OPEN);
        }
        if (*p == ')') return close_capture(m, s, p + 1);
        if (*p == '$' && p + 1 == m->pattern_end) return s == m->subject_end ? s : NULL;
        if (*p == '%' && special(m, &s, &p)) {
            if (!s) return NULL;
            continue;
        }
        const char *end = class_end(m, p);
        int again = end < m->pattern_end ? *end : 0;
        if (again == '*') return longest_first(m, s, p, end);
        if (again == '+') return matches_one(m, s, p, end) ? longest_first(m, s + 1, p, end) : NULL;
        if (again == '-') return shortest_first(m, s, p, end);
        int one = matches_one(m, s, p, end);
        if (again == '?') {
            const char *result = one ? match(m, s + 1, end + 1) : NULL;
            if (result) return result;
            p = end + 1;
        } else {
            if (!one) return NULL;
            s++;
            p = end;
        }
    }
    return s;
}

static const char *match(struct matcher *m, const char *s, const char *p)
{
    if (--m->depth < 0) luaL_error(m->L, "pattern too complex: nested too deeply");
    const char *result = match_items(m, s, p);
    m->depth++;
    return result;
}

/* ---- the function -------------------------------------------------------------------------------------- */

static void push_capture(struct matcher *m, const struct capture *capture)
{
    if (capture->length == OPEN) luaL_error(m->L, "unfinished capture");
    if (capture->length == POSITION) {
        lua_pushinteger(m->L, capture->start - m->subject + 1);
    } else {
        lua_pushlstring(m->L, capture->start, (size_t)capture->length);
    }
}

int pattern_match(lua_State *L)
{
    size_t n_subject, n_pattern;
    struct matcher m = {.L = L, .steps = PATTERN_MAX_STEPS, .depth = PATTERN_MAX_DEPTH};
    m.subject = luaL_checklstring(L, 1, &n_subject);
    const char *pattern = luaL_checklstring(L, 2, &n_pattern), *s = m.subject + luaL_checkinteger(L, 3) - 1;
    int once = lua_toboolean(L, 4);
    m.subject_end = m.subject + n_subject;
    m.pattern_end = pattern + n_pattern;
    for (; s >= m.subject && s <= m.subject_end; s++) {
        step(&m);
        m.n_captures = 0;
        const char *end = match(&m, s, pattern);
        if (end) {
            luaL_checkstack(L, m.n_captures + 2, "too many captures");
            lua_pushinteger(L, s - m.subject + 1);
            lua_pushinteger(L, end - m.subject);
            for (int i = 0; i < m.n_captures; i++) push_capture(&m, &m.captures[i]);
            return m.n_captures + 2;
        }
        if (once) break;
    }
    return 0;
}

int pattern_find(lua_State *L)
{
    size_t n_subject, n_text;
    const char *subject = luaL_checklstring(L, 1, &n_subject), *text = luaL_checklstring(L, 2, &n_text);
    lua_Integer init = luaL_checkinteger(L, 3);
    if (init < 1 || (size_t)init > n_subject + 1) return 0;
    const char *found = memmem(subject + init - 1, n_subject - (size_t)(init - 1), text, n_text);
    if (!found) return 0;
    lua_pushinteger(L, found - subject + 1);
    lua_pushinteger(L, found - subject + (lua_Integer)n_text);
    return 2;
}
