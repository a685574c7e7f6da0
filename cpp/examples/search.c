/* The same search in C: caan-search-c BUNDLE FEATURES.npy "caption". */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include <caan/caan.h>

static int print_best(const caan_retriever* retriever, const caan_gallery* gallery, const char* caption) {
    const size_t size = caan_gallery_size(gallery), k = size < 10 ? size : 10;
    caan_hit hits[10];
    const int code = caan_search(retriever, caption, gallery, k, hits);
    size_t rank;
    for (rank = 0; code == CAAN_OK && rank < k; ++rank) {
        printf("%3d  %8.4f  %ld\n", (int)rank + 1, (double)hits[rank].score, (long)hits[rank].index);
    }
    return code;
}

/* A message may quote a caption or a file's name: control characters are left out. */
static void print_error(const char* message) {
    fputs("Error: ", stderr);
    for (; *message != '\0'; ++message) {
        fputc(iscntrl((unsigned char)*message) ? '?' : *message, stderr);
    }
    fputc('\n', stderr);
}

int main(int count, char** arguments) {
    caan_retriever* retriever = NULL;
    caan_features* features = NULL;
    caan_gallery* gallery = NULL;
    int code;
    if (count != 4) {
        fprintf(stderr, "Usage: caan-search-c BUNDLE FEATURES.npy \"caption\"\n");
        return CAAN_INPUT;
    }
    code = caan_open(arguments[1], NULL, &retriever);
    if (code == CAAN_OK) {
        code = caan_features_open(arguments[2], &features);
    }
    if (code == CAAN_OK) {
        code = caan_encode_file(retriever, features, NULL, &gallery);
    }
    if (code == CAAN_OK) {
        code = print_best(retriever, gallery, arguments[3]);
    }
    if (code != CAAN_OK) {
        print_error(caan_last_error());
    }
    caan_gallery_close(gallery);
    caan_features_close(features);
    caan_close(retriever);
    return code;
}
