#ifndef LLM_KERNELS_DEVICE_H
#define LLM_KERNELS_DEVICE_H

/* What a device does for the engine beyond the ops: copies, marks in its queue, recorded steps, and the two
 * ends of a step, so that step n + 1 can be queued before the host has seen the tokens of step n.
 *
 * A device works off one queue in order. Functions enqueue and return, unless they say that they wait. They
 * are called from one thread, the engine's. Errors: LLM_EFAILED, after which every call fails: `failure` says
 * why. Pinned memory (`alloc_pinned`) is host memory that the device copies to and from by itself. */

#include "kernels/kernels.h"
#include "kernels/sampling.h"

/* What the host knows of the step about to run, before its first op: for planning. A recorded step is run for
 * many batches, so there the counts are those it was recorded for, and rows in excess of the batch are
 * padding: one-row sequences of length 1 in a page that nobody reads. Of the first n_decode sequences all
 * keys but that row's were written by earlier steps. */
struct step_shape {
    int32_t n_tokens, n_seqs;
    int32_t n_decode;                  /* the first n_decode sequences have one row each */
    int32_t max_query;                 /* rows of the longest of the others; 0: none */
    int32_t max_kv;                    /* tokens: no sequence of this step is longer */
    const int32_t *seq_start, *kv_len; /* of the batch, on the device */
};

/* tokens[i] = from[i], or last[-1 - from[i]] where that is negative: the token that sampling left in that
 * slot. */
struct feed_args {
    int32_t n;
    const int32_t *from, *last;
    int32_t *tokens;
};

/* The ends of a step. The host describes steps in two pinned buffers that take turns, and finds results in
 * two others; whose turn it is, the device counts, so that a recorded step serves both. */
enum { INTAKE_MAX_PIECES = 8, INTAKE_TABLE_HEAD = 4 };

struct intake_piece {
    size_t offset, bytes; /* the same place on both sides; multiples of 16 */
};

/* From a pinned buffer to the device: pieces, and n_rows rows of the block table, which lie close together
 * in the pinned buffer, behind INTAKE_TABLE_HEAD i32 of which the first is their width, and table_stride
 * apart on the device; width and stride are multiples of 4. */
struct intake_args {
    const char *from[2];
    char *to;
    const int32_t *turn; /* on the device */
    int32_t n_pieces, n_rows, table_stride;
    size_t table; /* offset */
    struct intake_piece pieces[INTAKE_MAX_PIECES];
};

/* Results to a pinned buffer; the next step has the other turn. */
struct deliver_args {
    const void *from;
    void *to[2];
    int32_t *turn;
    size_t bytes; /* a multiple of 4; may be 0 */
};

enum { EXCHANGE_TICKETS = 64 };

struct device_recording; /* a recorded step */

struct device_ops {
    /* Bytes that `alloc` can still give, and that the device has. */
    size_t (*memory_left)(struct backend *be, size_t *total);
    void *(*alloc_pinned)(struct backend *be, size_t bytes); /* null: no memory */
    void (*free_pinned)(struct backend *be, void *p);

    /* Between host and device. upload and download wait; copy_in and copy_out are for pinned memory, which
     * must stay as it is until a mark set afterwards has been reached. */
    llm_status (*upload)(struct backend *be, void *to, const void *from, size_t bytes);
    llm_status (*download)(struct backend *be, void *to, const void *from, size_t bytes);
    llm_status (*copy_in)(struct backend *be, void *to, const void *from, size_t bytes);
    llm_status (*copy_out)(struct backend *be, void *to, const void *from, size_t bytes);
    /* `rows` rows of `bytes` bytes, which begin `to_pitch` and `from_pitch` bytes apart. */
    llm_status (*copy_out_rows)(struct backend *be, void *to, size_t to_pitch, const void *from,
                                size_t from_pitch, size_t bytes, int32_t rows);

    /* An exchange: pieces go to the host and come back beside the queue, both ways at once, each by a ticket
     * with pinned memory of its own. Fetches see what was queued before begin_exchange; what is queued after
     * end_exchange sees what was given back, which may be a part, or nothing. fetch begins when what the
     * ticket gave back before is there; await waits until its piece has come. */
    llm_status (*begin_exchange)(struct backend *be);
    llm_status (*fetch)(struct backend *be, int32_t ticket, void *to, const void *from, size_t bytes);
    llm_status (*await)(struct backend *be, int32_t ticket);
    llm_status (*give_back)(struct backend *be, int32_t ticket, void *to, const void *from, size_t bytes);
    llm_status (*end_exchange)(struct backend *be);

    /* Marks 0 and 1: set puts one at the end of the queue, wait waits until the device has passed it. */
    llm_status (*set_mark)(struct backend *be, int mark);
    llm_status (*wait_mark)(struct backend *be, int mark);

    /* Before the ops of a step. */
    llm_status (*begin)(struct backend *be, const struct step_shape *shape);
    llm_status (*intake)(struct backend *be, const struct intake_args *a);
    llm_status (*feed)(struct backend *be, const struct feed_args *a);
    llm_status (*deliver)(struct backend *be, const struct deliver_args *a);
    const struct sampling_ops *sampling;

    /* Between record and recorded, ops are noted and not run; replay runs them. */
    llm_status (*record)(struct backend *be);
    llm_status (*recorded)(struct backend *be, struct device_recording **out);
    llm_status (*replay)(struct backend *be, struct device_recording *r);
    void (*recording_free)(struct backend *be, struct device_recording *r);

    /* Finds out how products like this layer's are done fastest, for all numbers of rows up to a->n_rows,
     * unless that is known from before, and keeps it: else the first `linear` of a kind does so. Works on
     * what x and w hold, which should be like what they will hold (power, and with it the clock, depends on
     * it); what y holds is lost. Waits, up to seconds. Null: there is nothing to find out. */
    llm_status (*tune)(struct backend *be, const struct linear_args *a);

    /* Rows of a stored matrix, from the host, as F16. */
    llm_status (*upload_f16)(struct backend *be, void *to, const struct tensor *rows);

    /* Random weights as model/dummy.h makes them: n values of `dtype` from this generator state. */
    llm_status (*fill)(struct backend *be, void *to, enum llm_dtype dtype, int64_t n, uint64_t state,
                       float deviation);

    const char *(*failure)(struct backend *be); /* lives as long as the backend */
};

struct cuda_options {
    int32_t device;           /* ordinal */
    enum llm_dtype act_dtype; /* BF16, F16 or F32: of activations */
    const char *cache_dir;    /* where tuning results are kept; null: nowhere */
};

/* Loads the CUDA plug-in (beside the program, or in LLMLUA_PLUGINS) and opens a device. Errors: LLM_EUNSUP
 * (no plug-in, no driver, a device too old: what is missing), LLM_EINVAL (no such device), LLM_ENOMEM. */
llm_status cuda_backend_open(const struct cuda_options *options, struct backend **out, struct llm_error *err);

/* A line about the device: "NVIDIA H200, 132 SMs, compute capability 9.0". */
const char *cuda_backend_describe(const struct backend *be);

#endif
