#include <cstdio>

#include <caan/caan.hpp>

int main(int, char** arguments) {
    try {
        const caan::Retriever retriever = caan::Retriever::open(arguments[1]);
        const caan::FeatureFile file = caan::FeatureFile::open(arguments[2]);
        const caan::Gallery gallery = retriever.encode_images(file.features());
        int rank = 0;
        for (const caan::Hit& hit : retriever.search(arguments[3], gallery, 10)) {
            std::printf("%3d  %8.4f  %d\n", ++rank, static_cast<double>(hit.score), static_cast<int>(hit.index));
        }
    } catch (const caan::Error& error) {
        std::fprintf(stderr, "Error: %s\n", error.what());
        return error.exit_code();
    }
}
