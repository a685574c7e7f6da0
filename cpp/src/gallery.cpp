#include "gallery.hpp"

#include <algorithm>

#include "gallery_folder.hpp"
#include "text.hpp"

namespace caan {

Gallery Gallery::open(const std::string& folder, Storage storage) {
    return Gallery(detail::read_gallery(detail::normal_path(folder), storage));
}

Gallery::Gallery(std::shared_ptr<const Content> content) : content_(std::move(content)) {}

Kind Gallery::kind() const noexcept { return content_->kind; }

std::size_t Gallery::size() const noexcept { return content_->size(); }

std::size_t Gallery::live() const noexcept { return content_->live.size(); }

bool Gallery::is_deleted(std::size_t index) const { return !content_->deleted.empty() && content_->deleted.at(index); }

std::size_t Gallery::length(std::size_t index) const {
    return static_cast<std::size_t>(content_->offsets.at(index + 1) - content_->offsets.at(index));
}

const std::vector<std::string>* Gallery::ids() const noexcept { return content_->ids ? &*content_->ids : nullptr; }

const std::string& Gallery::encoder() const noexcept { return content_->encoder; }

const std::string& Gallery::bundle() const noexcept { return content_->bundle; }

void Gallery::Content::confirm() const {
    if (check != nullptr) {
        check->confirm();
    }
}

void Gallery::Content::fetch(const std::vector<std::int64_t>& items) const noexcept {
    if (file.data() == nullptr) {
        return;
    }
    for (const std::int64_t item : items) {
        file.fetch(row(offsets[static_cast<std::size_t>(item)]), static_cast<std::size_t>(length(item)) * row_bytes());
    }
}

void Gallery::Content::finish() {
    live.clear();
    longest = 0;
    for (std::size_t i = 0; i < size(); ++i) {
        longest = std::max(longest, offsets[i + 1] - offsets[i]);
        if (deleted.empty() || !deleted[i]) {
            live.push_back(static_cast<std::int64_t>(i));
        }
    }
}

} // namespace caan
