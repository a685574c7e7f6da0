#include "gallery_sketches.hpp"

#include <caan/caan.hpp>

namespace caan::detail {

Sketches::Sketches(std::string folder, SketchEntry entry, std::vector<Block> blocks, const std::vector<bool>& deleted,
                   bool in_memory)
    : folder_(std::move(folder)), entry_(std::move(entry)), deleted_(deleted.begin(), deleted.end()) {
    const std::string path = folder_ + "/sketches.bin";
    const Subject subject{"sketches", "make them again: caan sketch " + folder_};
    for (const Block& block : blocks) {
        items_ += static_cast<std::size_t>(block.items);
    }
    const std::size_t bytes = items_ * entry_.columns;
    try {
        file_ = MappedFile(path);
        if (file_.size() < bytes) {
            throw BundleError(path + " is truncated: " + std::to_string(file_.size()) + " bytes of " +
                              std::to_string(bytes) + "; " + subject.again);
        }
        data_ = file_.data();
        if (in_memory) {
            memory_.assign(data_, data_ + bytes);
            data_ = memory_.data();
            file_ = MappedFile();
            for (std::size_t number = 0; number < blocks.size(); ++number) {
                compare_block(path, blocks, number, data_, entry_.columns, subject);
            }
        } else {
            check_ = std::make_unique<BlockCheck>(path, std::move(blocks), file_, entry_.columns, subject);
        }
    } catch (const std::system_error& error) {
        throw BundleError(path + " can't be read (" + reason(error) + "); " + subject.again);
    }
}

const std::int8_t* Sketches::rows() const {
    if (check_ != nullptr) {
        (*check_)(0, static_cast<std::int64_t>(items_));
    }
    return reinterpret_cast<const std::int8_t*>(data_);
}

void Sketches::confirm() const {
    if (check_ != nullptr) {
        check_->confirm();
    }
}

} // namespace caan::detail
