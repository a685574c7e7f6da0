#include <caan/caan.hpp>

namespace caan {

// Defined here, so that every program and library has the same types: errors must be caught across libraries.
Error::~Error() = default;
InputError::~InputError() = default;
DataError::~DataError() = default;
BundleError::~BundleError() = default;
MissingError::~MissingError() = default;

int Error::exit_code() const noexcept { return 1; }
int InputError::exit_code() const noexcept { return 2; }
int MissingError::exit_code() const noexcept { return 4; }

const char* version() noexcept { return CAAN_VERSION; }

} // namespace caan
