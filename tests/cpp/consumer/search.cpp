#include <cstdio>

#include <caan/caan.hpp>

int main(int count, char** arguments) try {
    if (count != 4) {
        throw caan::InputError("give BUNDLE FEATURES.npy CAPTION");
    }
    const caan::Retriever retriever = caan::Retriever::open(arguments[1]);
    const caan::FeatureFile file = caan::FeatureFile::open(arguments[2]);
    const caan::Gallery gallery = retriever.encode_images(file.features());
    int rank = 0;
    for (const caan::Hit& hit : retriever.search(arguments[3], gallery)) { // the 10 best, or all of fewer
        std::printf("%3d  %8.4f  %d\n", ++rank, static_cast<double>(hit.score), static_cast<int>(hit.index));
    }
} catch (const caan::Error& error) {
    std::fprintf(stderr, "Error: %s\n", error.what());
    return error.exit_code();
}
